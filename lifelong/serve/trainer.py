"""The trainer: a learner that reads the event log in order, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lifelong.core import restore
from lifelong.core.batch import Batch
from lifelong.core.errors import LifelongError, LogError
from lifelong.core.learner import Learner
from lifelong.core.task import TaskSpec
from lifelong.serve.anchors import Anchors
from lifelong.serve.events import Event, Log
from lifelong.serve.history import History
from lifelong.serve.outliers import Outliers
from lifelong.serve.plan import Plan
from lifelong.serve.quarantine import Quarantine, Refused
from lifelong.serve.rows import Checks, Labelled, Table, labelled

Came: TypeAlias = tuple[int, str, str | None]
"""Of a row: the offset where it became whole, the id of its features' event, and its source."""


@dataclass(slots=True)
class Position:
    """Where the learner stands in the log, and what it waits for."""

    offset: int = 0
    """Of the last event taken in."""
    rows: int = 0
    """Rows learned from."""
    period: int = -1
    """The number of the period that is open."""
    in_period: int = 0
    """Rows learned from in it."""
    task: int | None = None
    """The task that rows of it came with."""
    sources: dict[str, int] = field(default_factory=dict)
    """Rows of each source in it."""
    correct: list[int] = field(default_factory=lambda: [0, 0])
    """Rows answered rightly before they were learned from, and all such rows, in it."""


class Trainer:
    """Learn from a log: the learner after offset n is a function of the events up to n.

    Batches are cut by counting rows and by tick events. Held-out rows are chosen by hashes of ids.
    Each step is taken once, in the order of the log. So a trainer that was killed loads its last
    checkpoint, reads on from there, and comes to the same weights, bit for bit (one thread, CPU).

    Args:
        folder: its own, for checkpoints and the quarantine.
        log: to read from.
        make: returns a new learner, always the same: model, optimizer, strategies, seed.
        checks: what features and labels must be.
        plan: how to learn.
        classes: of the model, told to it when a period begins.

    Raises:
        CheckpointError: all checkpoints are damaged.
        LogError: a checkpoint has seen more than there is in the log.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        make: Callable[[], Learner],
        checks: Checks,
        plan: Plan | None = None,
        *,
        classes: Iterable[int] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = log
        self.make = make
        self.checks = checks
        self.plan = plan or Plan()
        self.classes = tuple(classes)
        self.quarantine = Quarantine(folder)
        self.history = History(folder)
        self.watch: Callable[[Batch, list[Came]], None] = lambda batch, came: None  # noqa: ARG005
        """Shown each batch that was learned from, with where its rows came from: none of the rows
        that went to quarantine."""
        self.saving: Callable[[], None] = lambda: None
        """Called before a checkpoint is written."""
        self.before: Callable[[], None] = lambda: None
        """Called before whatever changes the learner: each step, and each new period."""
        self.completed: Callable[[Event], None] = lambda event: None  # noqa: ARG005
        """Shown each event that makes a row whole, before the row is taken in."""
        self.learned: Callable[[list[int]], None] = lambda offsets: None  # noqa: ARG005
        """Told after each step at which offsets its rows became whole."""
        self.closing: Callable[[], None] = lambda: None
        """Called when a period has been learned in full, before the next one begins."""
        self._came: list[tuple[int, str, str | None]] = []
        """Of each row that waits: its offset, id and source."""
        self.saved_at: float | None = None
        """When this process wrote a checkpoint last, in seconds since 1970."""
        self._resume(before=None)

    def step(self, limit: int = 1000) -> int:
        """Take in up to `limit` events; return how many there were.

        A checkpoint is written when enough have come since the last one.
        """
        events = self.log.read(self.at.offset, limit)
        for event in events:
            if not self._take(event):
                break  # it went back: the events that follow are others now
            if self.at.offset - self._saved >= self.plan.every:
                self.save()
        return len(events)

    def catch_up(self) -> None:
        """Take in all events that there are."""
        while self.step():
            pass

    def save(self) -> Path:
        """Write a checkpoint of everything, atomically."""
        self.saving()
        path = self.history.save(self.at.offset, self.state_dict())
        self._saved, self.saved_at = self.at.offset, time.time()
        return path

    @property
    def saved(self) -> int:
        """The offset of the last checkpoint."""
        return self._saved

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what is learned next; tensors are referenced."""
        return {
            "learner": restore.gather(self.learner),
            "at": {name: getattr(self.at, name) for name in Position.__dataclass_fields__},
            "waiting": self.waiting.state(),
            "offsets": [list(pair) for pair in self._came],
            "window": self.window.state(),
            "anchors": self.anchors.state_dict(),
            "outliers": self.outliers.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where a state was taken."""
        self._fresh()
        self.learner.load_state_dict(state["learner"])
        self.at = Position(**state["at"])
        self.waiting, self.window = (
            Table.of_state(state["waiting"]),
            Table.of_state(state["window"]),
        )
        self._came = [(int(offset), str(id), source) for offset, id, source in state["offsets"]]
        self.anchors.load_state_dict(state["anchors"])
        self.outliers.load_state_dict(state["outliers"])
        self._saved = self.at.offset

    def _fresh(self) -> None:
        plan = self.plan
        self.learner = self.make()
        self.at = Position()
        self.waiting = Table.empty()
        """Rows of a batch that is not full yet."""
        self.window = Table.empty()
        """The latest rows learned from in the open period."""
        self.anchors = Anchors(plan.anchors, plan.anchor_rows, plan.anchor_groups)
        self.outliers = Outliers(plan.deviations, warmup=plan.warmup)
        self._came = []
        self._saved = 0

    def _resume(self, before: int | None) -> None:
        """Stand at the latest checkpoint, or at the latest up to an offset; else at the start."""
        state = self.history.latest(before)
        if state is None:
            self._fresh()
        else:
            self.load_state_dict(state)
            if self.at.offset > (last := self.log.last):
                raise LogError(
                    f"the checkpoint in {self.history.folder} has seen offset {self.at.offset}, "
                    f"and the log ends at {last}; restore the log that belongs to it, or delete "
                    "the checkpoints with higher offsets"
                )

    def _take(self, event: Event) -> bool:
        """Take an event in; False if that led back to an earlier place."""
        if event.kind == "erasure" and not self.history.is_done(event.offset):
            again = bool(event.data.get("again", False))
            self.history.owe(int(event.data["first"]), event.offset, again)
            rows = {int(key) for key in event.data.get("forget", ())}
            return self._go_back(event.offset, int(event.data["first"]), rows)
        if event.kind == "decision" and "discard_after" in event.data:
            first = int(event.data["discard_after"]) + 1
            if not self.history.is_done(event.offset):
                self.history.discard(first, event.offset)
                return self._go_back(event.offset, first)
        if event.kind == "tick":
            self._learn()
        elif (row := labelled(self.log, event)) is not None:
            self.completed(event)
            self._row(row)
        if self.plan.period and self.at.in_period >= self.plan.period:
            self._begin(self.at.task)
        self.at.offset = event.offset
        return True

    def _go_back(self, event: int, first: int, forget: Collection[int] = ()) -> bool:
        """Learn again from the last place that had not seen an offset, if this one has.

        What was learned from there on is forgotten whole: checkpoints, quarantine, weights. Where
        the log was trimmed, that place is its beginning, and the rows `forget`, which were learned
        before it, leave whatever keeps them.
        """
        self.history.drop(first)
        self.quarantine.forget(first)
        self._resume(before=first - 1)
        if forget:
            self._forget(forget)
            self.save()  # in the place of the one that holds these rows
        self.history.done(event)
        self.history.went_back(self.at.offset)
        return False

    def _forget(self, keys: Collection[int]) -> None:
        self.learner.forget(sorted(keys))
        self.anchors.forget(keys)
        kept = [place for place, key in enumerate(self.waiting.key) if key not in keys]
        self._came = [self._came[place] for place in kept]
        self.waiting = self.waiting.rows(kept)
        kept = [place for place, key in enumerate(self.window.key) if key not in keys]
        self.window = self.window.rows(kept)

    def _row(self, row: Labelled) -> None:
        refused = self._refused(row)
        if refused is not None:
            self._refuse(row.offset, row.id, row.source, *refused)
            return
        if self.at.period < 0 or (row.task is not None and row.task != self.at.task):
            self._begin(row.task)
        x, y = self.checks.row(row.x), self.checks.label(row.y)
        task = self.at.period if row.task is None else row.task
        if row.source is not None:
            self.at.sources[row.source] = self.at.sources.get(row.source, 0) + 1
        if self.anchors.chosen(row.id):
            self.anchors.add(task, row.id, x, y, task)
            return
        self.waiting.add(x, y, task, row.key)
        self._came.append((row.offset, row.id, row.source))
        if len(self.waiting) == self.plan.batch:
            self._learn()

    def _refused(self, row: Labelled) -> tuple[str, str] | None:
        """Say why a row must not be learned from: a word and a sentence."""
        if self.history.discarded(row.offset):
            return "range", "it is in a range that was rolled back"
        try:
            self.checks.row(row.x)
            self.checks.label(row.y)
        except ValueError as error:
            return "schema", str(error)
        quota = self.plan.quota
        if quota and row.source is not None and self.at.sources.get(row.source, 0) >= quota:
            return "quota", f"{row.source} has sent {quota} rows in this period already"
        return None

    def _learn(self) -> None:
        """Take one step on the rows that wait, without those that look poisoned."""
        rows, came = self.waiting, self._came
        if not len(rows):
            return
        self.before()
        self.waiting, self._came = Table.empty(), []
        kept = list(range(len(rows)))
        try:
            kept = self._usual(rows, came)
            if kept:
                self.learner.observe(batch := rows.rows(kept).batch())
        except LifelongError as error:  # the learner is as it was
            for index in kept:
                self._refuse(*came[index], "error", str(error))
            return
        if kept:
            self.watch(batch, [came[index] for index in kept])
        self.at.rows += len(kept)
        self.at.in_period += len(kept)
        self.window.extend(rows.rows(kept))
        self.window = self.window.last(self.plan.window)
        self.learned([came[index][0] for index in kept])

    def _usual(self, rows: Table, came: list[tuple[int, str, str | None]]) -> list[int]:
        """Say which rows look like the others, and put the rest into quarantine."""
        batch = rows.batch()
        output = self.learner.predict(batch.x, batch.task)
        losses = self._losses(output, batch)
        right = output.argmax(1).cpu() == batch.y if output.ndim == 2 else torch.zeros(len(rows))
        self.at.correct[0] += int(right.sum())
        self.at.correct[1] += len(rows)
        assert isinstance(batch.x, Tensor)
        norms = batch.x.flatten(1).double().norm(dim=1)
        kept = []
        for index, why in enumerate(self.outliers.look(norms.numpy(), losses.double().numpy())):
            if why is None:
                kept.append(index)
            else:
                told = f"its {why} lies far above that of other rows lately"
                self._refuse(*came[index], why, told)
        return kept

    def _losses(self, output: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            losses = self.learner.loss(output, batch.to(self.learner.device)).cpu()
        return losses if losses.ndim else losses.expand(len(batch))

    def _begin(self, task: int | None) -> None:
        """Close the open period, if there is one, and open the next."""
        self._learn()
        self.before()
        if self.at.period >= 0 and len(self.window):
            self.learner.end_task(list(self.window.batches(self.plan.batch)))
        elif self.at.period >= 0:
            self.learner.current = None
        if self.at.period >= 0:
            self.closing()
        self.at.period += 1
        self.at.in_period, self.at.task, self.at.sources = 0, task, {}
        self.at.correct = [0, 0]
        self.window = Table.empty()
        id = self.at.period if task is None else task
        self.learner.begin_task(TaskSpec(id, self.classes))

    def _refuse(self, offset: int, id: str, source: str | None, reason: str, detail: str) -> None:
        self.quarantine.add([Refused(offset, id, source, reason, detail)])
