"""One replay of a service's stream under other strategies, which goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifelong.core import checkpoint, restore
from lifelong.core.errors import CheckpointError, LogError, StateMismatch
from lifelong.metrics.cost import state_bytes
from lifelong.serve import scores
from lifelong.serve.answers import Answers
from lifelong.serve.champions import Champions
from lifelong.serve.choice import Choice, with_strategies
from lifelong.serve.config import Config
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.noting import Noting, Stretch
from lifelong.serve.past import Turn, already, log_of, one_thread, turns
from lifelong.serve.trainer import Trainer
from lifelong.serve.versions import write_json
from lifelong.serve.weights import digest_of, weights_of

Tell = Callable[[float], None]
"""Told which share of the stream is done."""
SAVE_SECONDS = 20.0
"""Between checkpoints."""
_CHUNK = 200


class Replayed:
    """A run of one choice of strategies over a stretch of a log, in a folder of its own.

    The trainer is the service's, with the same batches, periods, anchors and rules of quarantine.
    What it would have answered is noted before it learns. While it runs, the folder holds a
    checkpoint, which may have rows of the log in it; at the end only `result.json` stays.

    Args:
        choice: of strategies and settings.
        config: of the service.
        service: its folder, which is read only.
        stretch: of the log.
        folder: of this run.
    """

    def __init__(
        self, choice: Choice, config: Config, service: Path, stretch: Stretch, folder: Path
    ) -> None:
        self.choice = choice
        self.config = config
        self.plan = choice.plan or config.train
        self.service = service
        self.stretch = stretch
        self.folder = folder
        plan = {key: value for key, value in asdict(self.plan).items() if key != "every"}
        self.about = {
            "strategy": choice.name,
            "settings": choice.settings,
            "learner": config.learner,
            "plan": plan,
            **asdict(stretch),
        }
        self.path = folder / "checkpoint.safetensors"
        self.result_path = folder / "result.json"

    def run(self, tell: Tell = lambda share: None) -> dict[str, Any]:  # noqa: ARG005
        """Run to the end, or read the result of a run that is over.

        Raises:
            StateMismatch: the folder holds a run with other settings.
            LogError: the log is damaged, or events were erased from it meanwhile.
        """
        if self.result_path.exists():
            result: dict[str, Any] = json.loads(self.result_path.read_text("utf-8"))
            self._check_same(result["about"])
            return result
        with log_of(self.service) as log, one_thread():
            try:
                result = self._run(log, tell)
            finally:
                if log.erased(1, self.stretch.last) != self.stretch.erased:
                    shutil.rmtree(self.folder)  # it may hold rows of what was erased
                    raise LogError("events were erased from the log meanwhile; start it again")
        write_json(self.result_path, result)
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "trainer", ignore_errors=True)
        return result

    def _run(self, log: SQLiteLog, tell: Tell) -> dict[str, Any]:
        self._begin(log, turns(log))
        saved = time.monotonic()
        first, last = self.trainer.at.offset, self.stretch.last
        while True:
            started = time.perf_counter()
            before = self.answers.seconds + self.measuring
            taken = self.trainer.step(_CHUNK)
            apart = self.answers.seconds + self.measuring - before
            self.seconds += time.perf_counter() - started - apart
            if not taken:
                break
            tell((self.trainer.at.offset - first) / max(last - first, 1))
            if time.monotonic() - saved >= SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self._answer(last)
        self._measure(self.trainer.anchors.groups)
        result = self._result()
        self.trainer.quarantine.close()
        return result

    def _begin(self, log: SQLiteLog, gone_back: Sequence[Turn]) -> None:
        """Make the trainer, and stand where the run was stopped."""
        schema, _, _ = self.config.parts()
        checks = Checked(schema)
        self.folder.mkdir(parents=True, exist_ok=True)
        already(self.folder / "trainer", gone_back)
        self.noting = Noting(log, self.stretch, checks)
        self.trainer = Trainer(
            self.folder / "trainer",
            self.noting,
            with_strategies(self.config.factory(), self.choice.strategies, self.choice.lr),
            checks,
            replace(self.plan, every=2**62),
            classes=range(self.config.schema.classes),
        )
        self.noting.discarded = self.trainer.history.discarded
        self.trainer.before = self._before
        self.answers = Answers(self.trainer, (self.stretch.sync,))
        self.offsets: list[int] = []
        self.served = bytearray()
        self.matrix: list[dict[str, float]] = []
        self.champions = Champions(self.service, self.config.factory())
        self.champions_matrix: list[dict[str, float]] = []
        self.closed: set[int] = set()
        self.period = -1
        self.seconds = self.measuring = 0.0
        self._resume()

    def save(self) -> None:
        """Write a checkpoint of the trainer and of what was noted, atomically."""
        self._answer(self.trainer.at.offset)
        state = {
            "about": self.about,
            "trainer": self.trainer.state_dict(),
            "answers": self.answers.state_dict(),
            "offsets": torch.tensor(self.offsets, dtype=torch.int64),
            "served": torch.tensor(list(self.served), dtype=torch.uint8),
            "matrix": self.matrix,
            "champions": self.champions_matrix,
            "champion": self.noting.served_at(self.trainer.at.offset),
            "closed": sorted(self.closed),
            "period": self.period,
            "seconds": self.seconds,
        }
        checkpoint.save(self.path, restore.copied(state))

    def _resume(self) -> None:
        if not self.path.exists():
            return
        try:
            state = checkpoint.load(self.path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; delete {self.folder} to begin anew") from error
        self._check_same(state["about"])
        self.trainer.load_state_dict(state["trainer"])
        self.answers.load_state_dict(state["answers"])
        self.offsets = state["offsets"].tolist()
        self.served = bytearray(state["served"].tolist())
        self.matrix, self.closed = state["matrix"], set(state["closed"])
        self.champions_matrix = state["champions"]
        self.noting.note(0, state["champion"])
        self.period, self.seconds = state["period"], state["seconds"]

    def _before(self) -> None:
        """Look at the learner before it changes: is a period over, what does it answer?"""
        at = self.trainer.at
        if at.period != self.period:
            if self.period >= 0:
                open_now = at.period if at.task is None else at.task
                self.closed |= set(self.trainer.anchors.groups) - {open_now}
                self._measure(sorted(self.closed))
            self.period = at.period
        self._answer(self.noting.under_way(at.offset))

    def _answer(self, upto: int) -> None:
        rows = self.noting.take(upto)
        self.offsets += [row.offset for row in rows]
        self.served += bytes(row.served for row in rows)
        x = np.stack([row.x for row in rows]) if rows else np.empty(0, np.float32)
        self.answers.answer(x, [row.y for row in rows], [row.task for row in rows])

    def _measure(self, groups: Sequence[int]) -> None:
        """Measure the learner, and what was served, on the anchors of these tasks or periods."""
        started = time.perf_counter()
        champion = self.noting.served_at(self.trainer.at.offset)
        own, served = {}, {}
        for group in groups:
            x, y, task = self.trainer.anchors.rows(group)
            output = self.trainer.learner.predict(x, task).float().cpu()
            right = output.reshape(len(y), -1).argmax(1) == y
            own[str(group)] = float(right.double().mean())
            accuracy = self.champions.accuracy(champion, x, y, task)
            if accuracy is not None:
                served[str(group)] = accuracy
        self.matrix.append(own)
        self.champions_matrix.append(served)
        self.measuring += time.perf_counter() - started

    def _result(self) -> dict[str, Any]:
        trainer, learner = self.trainer, self.trainer.learner
        kept = [part.state_dict() for part in learner.strategies]
        right = np.frombuffer(self.answers.right[self.stretch.sync], np.uint8)
        return {
            "strategy": self.choice.name,
            **scores.answered(
                self.offsets, right, np.frombuffer(self.served, np.uint8), self.stretch
            ),
            "anchors": self.matrix,
            "served_anchors": self.champions_matrix,
            "average_accuracy": scores.average(self.matrix),
            "forgetting": scores.forgetting(self.matrix),
            "memory_bytes": state_bytes(
                [{k: v for k, v in part.items() if k != "generator"} for part in kept]
            ),
            "seconds": self.seconds,
            "rows_per_second": trainer.at.rows / self.seconds if self.seconds > 0 else None,
            "learned": trainer.at.rows,
            "steps": learner.steps,
            "quarantine": trainer.quarantine.counts(),
            "weights_sha256": digest_of(weights_of(learner)),
            "about": self.about,
        }

    def _check_same(self, about: dict[str, Any]) -> None:
        own = json.loads(json.dumps(self.about))
        differing = [
            f"{name} {about.get(name)!r} there, {own.get(name)!r} now"
            for name in sorted(own.keys() | about.keys())
            if own.get(name) != about.get(name)
        ]
        if differing:
            raise StateMismatch(
                f"{self.folder} holds a run with other settings ({'; '.join(differing)}); "
                "choose another --out"
            )
