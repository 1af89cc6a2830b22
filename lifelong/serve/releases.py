"""From learned weights to served ones: candidates, the gate, and the guardrail afterwards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lifelong.core import restore
from lifelong.core.batch import Batch
from lifelong.serve.config import Release
from lifelong.serve.gate import Comparison, Evidence, Gate, Judgement
from lifelong.serve.guardrail import Guardrail
from lifelong.serve.registry import Registry, served
from lifelong.serve.sequential import PairedTest
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Trainer
from lifelong.serve.weights import digest_of, model_of, weights_of

Ask = Callable[[str, dict[str, Any]], None]
"""Asks the api for a decision: ("promote" or "rollback", its body). Asking again is harmless."""

Correct = NDArray[np.bool_]

RECENT = 500
"""Rows of the recent window."""


class Trial:
    """One candidate beside the champion, on rows that came when neither had learned from them."""

    def __init__(self, candidate: Snapshot, champion: Snapshot, offset: int) -> None:
        self.candidate = candidate
        self.champion = champion
        self.offset = offset
        """The last event that the candidate has seen."""
        self.shadow = PairedTest()
        self.right: deque[tuple[bool, bool]] = deque(maxlen=RECENT)
        self.judged = -1
        """How many rows there were when it was judged last."""

    def add(self, champion: Correct, candidate: Correct) -> None:
        """Add what both answered to new rows."""
        self.shadow.add(candidate.astype(float) - champion.astype(float))
        self.right += zip(champion.tolist(), candidate.tolist(), strict=True)

    def recent(self) -> Comparison | None:
        """Compare both on the newest rows."""
        if not self.right:
            return None
        champion, candidate = zip(*self.right, strict=True)
        return Comparison.of(champion, candidate)


class Releases:
    """Make candidates of what a trainer has learned, judge them, and have them served.

    Nothing here changes what is learned: it may depend on the clock and start anew after a crash.
    One candidate is judged at a time. Rows count for it only if they came after its last event, so
    neither version has learned from them.

    Args:
        trainer: is watched.
        registry: candidates become versions of it.
        gate: judges.
        settings: when, and what to do about a verdict.
        ask: asks the api, which decides what is served.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        trainer: Trainer,
        registry: Registry,
        gate: Gate,
        settings: Release,
        ask: Ask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trainer = trainer
        self.registry = registry
        self.gate = gate
        self.settings = settings
        self.ask = ask
        self.clock = clock
        self.trial: Trial | None = None
        self.judgement: Judgement | None = None
        """Of the candidate on trial, or of the last one."""
        self.on_anchors: dict[str, float] = {}
        """What champion and candidate got right of all anchors, when they were last compared."""
        self.guard: Guardrail | None = None
        self._champion: Snapshot | None = None
        self._rate = [0, 0]
        self._asked: set[str] = set()
        self._made_at = clock()
        self._made_rows = 0
        self._targets: tuple[tuple[int, ...], list[int]] = ((), [])
        trainer.watch = self._watch

    def consider(self) -> None:
        """Do what is due: notice what is served now, judge the candidate, or make one."""
        self._look()
        if self._champion is None:
            return
        if self.trainer.history.owed:
            self._replace(self._champion)
            return
        if self.guard is not None and self.guard.breached:
            self._undo(self.guard)
        if self.trial is not None:
            self._judge(self.trial)
        elif self._due():
            self._make(self._champion)

    def targets(self) -> list[int]:
        """Return the last offsets of the champion and of the one before, to go back to."""
        now = served(self.registry.folder)
        numbers = [now["champion"], *now["previous"][-1:]]
        found = tuple(number for number in numbers if number is not None)
        if found != self._targets[0]:
            offsets = [self.registry.get(number).last_offset for number in found]
            self._targets = (found, offsets)
        return self._targets[1]

    def _due(self) -> bool:
        rows = self.trainer.at.rows - self._made_rows
        if rows < 0:  # it went back
            self._made_rows = 0
        return rows >= self.settings.rows and self.clock() - self._made_at >= self.settings.every

    def _look(self) -> None:
        """Load the champion if it is another than before."""
        number = served(self.registry.folder).get("champion")
        if number is None or (self._champion is not None and self._champion.version == number):
            return
        promoted = self.trial is not None and self.trial.candidate.version == number
        self.guard = self._guard() if promoted else None
        self._champion = self._snapshot(number)
        self.trial, self._rate = None, [0, 0]

    def _guard(self) -> Guardrail | None:
        """Watch a new champion by what the one before got right, where that says something."""
        correct, rows = self._rate
        try:
            return Guardrail.after(correct, rows, self.settings.tolerance)
        except ValueError:  # too few rows, or too few right: nothing to fall from
            return None

    def _replace(self, champion: Snapshot) -> None:
        """After an erasure: serve a version that has not seen it, and retire those that have.

        What they keep of the learner, rows in memories among it, is deleted at once. The champion
        serves on until the learner has learned again; what it is replaced by needs no gate.
        """
        history = self.trainer.history
        self.trial = None
        if "until" not in history.owed:
            history.owed_until(self.registry.versions()[-1].number)
        first, until = history.owed["first"], history.owed["until"]
        seen = [
            version.number
            for version in self.registry.versions()
            if version.number <= until and version.last_offset >= first and not version.retired
        ]
        self.registry.drop_learners(seen)
        if self.trainer.at.offset < history.owed["event"]:
            return
        if champion.version in seen:
            version = self._register(champion)
            reason = "learned again without events that were erased"
            self._ask("promote", version, {"version": version, "reason": reason})
            return
        for number in seen:
            self.registry.retire(number, "erasure")
        history.paid()

    def _snapshot(self, number: int) -> Snapshot:
        state = self.registry.load_weights(number)
        return Snapshot(number, model_of(self.trainer.make, state))

    def _make(self, champion: Snapshot) -> None:
        number = self._register(champion)
        if number != champion.version and self.registry.get(number).retired is None:
            self.trial = Trial(self._snapshot(number), champion, self.trainer.at.offset)
            self.judgement = None
        self.registry.prune(keep_learners=self.settings.keep)

    def _register(self, champion: Snapshot) -> int:
        trainer = self.trainer
        learned = trainer.at.correct
        weights = restore.copied(weights_of(trainer.learner))
        after = self.registry.get(champion.version).last_offset
        version = self.registry.register(
            weights,
            restore.copied(trainer.state_dict()),
            parent=champion.version,
            first_offset=min(after, trainer.at.offset) + 1,
            last_offset=trainer.at.offset,
            metrics={
                "rows": float(trainer.at.rows),
                "prequential": learned[0] / max(learned[1], 1),
            },
            # The learner may come to an offset again with other weights, after going back.
            id=f"offset-{trainer.at.offset}-{digest_of(weights)[:16]}",
        )
        self._made_at, self._made_rows = self.clock(), trainer.at.rows
        return version.number

    def _evidence(self, trial: Trial) -> Evidence:
        anchors: dict[int | str, Comparison] = {}
        for group in self.trainer.anchors.groups:
            x, y, task = self.trainer.anchors.rows(group)
            both = (_right(one, x, y, task) for one in (trial.champion, trial.candidate))
            anchors[group] = Comparison.of(*both)
        if rows := sum(one.rows for one in anchors.values()):
            champion = sum(one.champion for one in anchors.values()) / rows
            candidate = sum(one.candidate for one in anchors.values()) / rows
            self.on_anchors = {"champion": champion, "candidate": candidate}
        return Evidence(anchors=anchors, recent=trial.recent(), shadow=trial.shadow)

    def _judge(self, trial: Trial) -> None:
        if trial.judged != trial.shadow.n:
            self.judgement = self.gate.judge(self._evidence(trial))
            trial.judged = trial.shadow.n
        if self.judgement is None or self.judgement.verdict == "undecided":
            return
        if self.judgement.verdict == "refuse" or self.settings.mode == "manual":
            self.trial = None
            return
        number = trial.candidate.version
        if self.settings.mode == "automatic":
            reason = "; ".join(self.judgement.reasons)[:250]
            self._ask("promote", number, {"version": number, "reason": reason})

    def _undo(self, guard: Guardrail) -> None:
        """Have the champion of before served again, and the learner go back to it."""
        assert self._champion is not None
        number = self._champion.version
        to = self.registry.previous_champion()
        if self.settings.mode == "automatic" and to is not None:
            report = guard.report
            reason = f"version {number} breached its guardrail after {report['breached_at']} rows"
            # Further back than the log begins, only the weights that are served can go.
            discard = self.registry.get(to).last_offset >= self.trainer.history.begin
            self._ask("rollback", number, {"to": to, "reason": reason, "discard": discard})
        self.guard = None

    def _ask(self, what: str, number: int, body: dict[str, Any]) -> None:
        """Ask once; again only if that failed."""
        id = f"{what}-{number}-{self.trainer.at.offset}"
        if id not in self._asked:
            self.ask(what, {**body, "id": id})
            self._asked.add(id)

    def _watch(self, batch: Batch, offset: int) -> None:
        champion, trial = self._champion, self.trial
        if champion is None:
            return
        x = batch.x
        assert isinstance(x, Tensor)
        right = _right(champion, x, batch.y, batch.task)
        self._rate = [self._rate[0] + int(right.sum()), self._rate[1] + len(right)]
        if self.guard is not None:
            self.guard.add(right)
        if trial is not None and offset > trial.offset:
            trial.add(right, _right(trial.candidate, x, batch.y, batch.task))


def _right(snapshot: Snapshot, x: Tensor, y: Tensor, task: Tensor) -> Correct:
    """Which rows a version answers rightly, (rows,)."""
    output = snapshot.predict(x.numpy(), task.numpy())
    right: Correct = output.reshape(len(y), -1).argmax(1) == y.numpy()
    return right
