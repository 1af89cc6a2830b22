"""One run of one strategy with one seed, which goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lifelong
from lifelong.bench import recipes
from lifelong.bench.build import kept_apart, learner_of, stream_of, task_names, warm_up
from lifelong.bench.evaluate import evaluate
from lifelong.bench.folder import CHECKPOINT, RESULT, check_same, finished, interrupted
from lifelong.bench.results import write_atomic
from lifelong.core import checkpoint, restore
from lifelong.core.errors import StateMismatch
from lifelong.core.learner import Learner
from lifelong.metrics import matrix
from lifelong.metrics.cost import CostTimer, state_bytes
from lifelong.nets import AnalyticHead
from lifelong.streams import Stream, Task

Event = Callable[[dict[str, Any]], None]
"""Told how a run goes: batches done and in all, tasks likewise, the latest accuracies."""

CHECKPOINT_SECONDS = 20.0
_STRIDE = 32


class Job:
    """A run, in a folder of its own: `checkpoint.safetensors` while it goes, then `result.json`.

    Its configuration is all that its result depends on; the same configuration in the same folder
    goes on where it was, to the same result, bit for bit (one thread, on a CPU).

    Args:
        config: what `suites.resolve` returns, with a seed.
        folder: is made if need be.
        tell: is told how it goes, about ten times a second.
        every: seconds between checkpoints.
        threads: that torch may use; with more than one, sums may round differently each time.

    Raises:
        StateMismatch: the folder holds a run of another configuration.
        CheckpointError: what it holds is damaged, or cannot be written.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        tell: Event = lambda _: None,
        *,
        every: float = CHECKPOINT_SECONDS,
        threads: int = 1,
    ) -> None:
        self.config = dict(config)
        self.folder = folder
        self.tell = tell
        self.every = every
        self.threads = threads
        self.path = folder / CHECKPOINT
        self.result_path = folder / RESULT

    def run(self) -> dict[str, Any]:
        """Run to the end, or read the result of a run that is over."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (over := finished(self.folder)) is not None:
            check_same(self.folder, over["config"], self.config)
            return over
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self._run()
        finally:
            torch.set_num_threads(threads)

    def prepare(self) -> None:
        """Make the stream and the learner, and learn nothing; what cannot work is refused here.

        Raises:
            DatasetError: the data cannot be had.
            ValueError: a setting makes no sense.
        """
        self.stream = stream_of(self.config)
        self.tests = self.stream.tests
        if self.config["on"] == "valid":
            self.tests = kept_apart(self.config)
        self.learner = learner_of(self.config, self.stream)

    def _run(self) -> dict[str, Any]:
        warm_up(self.config)
        self._timer = CostTimer(self.config["device"])
        self.prepare()
        self.progress: dict[str, Any] = {
            "initial": evaluate(self.learner, self.tests, self.stream.task_known),
            "accuracy": [],
            "curve": [],
            "rows": 0,
            "batches": 0,
            "seconds": 0.0,
        }
        self._resume()
        self._before = self.progress["seconds"]
        self._saved = self._told = time.monotonic()
        for position, task in enumerate(self.stream, start=self.stream.cursor["task"]):
            if position >= len(self.progress["accuracy"]):
                self._learn(position, task)
        result = self._result()
        write_atomic(self.result_path, json.dumps(result).encode())
        # A process that was killed while it wrote has left its temporary file behind.
        for path in (self.path, *self.folder.glob(f".{self.path.name}.*")):
            path.unlink(missing_ok=True)
        return result

    def _learn(self, position: int, task: Task) -> None:
        """Learn a task from where the stream stands, measure, and save."""
        at, total = self.stream.cursor["batch"], len(task)
        marks = {
            total * k // (self.config["curve"] + 1) for k in range(1, self.config["curve"] + 1)
        }
        batches = iter(task)
        with self._timer.training():
            self.learner.begin_task(task)
        while at < total:
            stop = min([total, at + _STRIDE, *(mark for mark in marks if mark > at)])
            with self._timer.training():
                for batch in islice(batches, stop - at):
                    self.learner.observe(batch)
                    self.progress["rows"] += len(batch)
            self.progress["batches"] += stop - at
            at = stop
            if at in marks:
                self._sample(position)
            self._now_and_then(position)
        with self._timer.training():
            self.learner.end_task(task)
        self.progress["accuracy"].append(evaluate(self.learner, self.tests, self.stream.task_known))
        self._sample(position, self.progress["accuracy"][-1])
        self._save()
        self._report(position)

    def _sample(self, position: int, accuracy: list[float] | None = None) -> None:
        """Add to the curve the accuracy on the tasks that have begun."""
        begun = len(self.tests) if len(self.stream) < len(self.tests) else position + 1
        if accuracy is None:
            tests = self.tests[:begun]
            accuracy = evaluate(self.learner, tests, self.stream.task_known)
        rest: list[float | None] = [None] * (len(self.tests) - begun)
        self.progress["curve"].append(
            {"rows": self.progress["rows"], "accuracy": accuracy[:begun] + rest}
        )

    def _now_and_then(self, position: int) -> None:
        now = time.monotonic()
        if now - self._saved >= self.every:
            self._save()
        if now - self._told >= 0.1:
            self._report(position)

    def _report(self, position: int) -> None:
        self._told = time.monotonic()
        curve = self.progress["curve"]
        self.tell(
            {
                "batch": self.progress["batches"],
                "batches": sum(len(task) for task in self.stream.tasks),
                "task": position,
                "tasks": len(self.stream),
                "accuracy": curve[-1]["accuracy"] if curve else [],
            }
        )

    def _save(self) -> None:
        self._saved = time.monotonic()
        self.progress["seconds"] = self._before + self._timer.cost().seconds
        state = {
            "config": self.config,
            "progress": self.progress,
            "stream": self.stream.state_dict(),
            "learner": restore.gather(self.learner),
        }
        checkpoint.save(self.path, state)

    def _resume(self) -> None:
        state = interrupted(self.folder)
        if state is None:
            return
        check_same(self.folder, state["config"], self.config)
        try:
            self.stream.load_state_dict(state["stream"])
            self.learner.load_state_dict(state["learner"])
        except StateMismatch as error:
            way_out = f"delete {self.folder} to run from the start"
            raise StateMismatch(f"{self.path}: {error}; {way_out}") from error
        self.progress = state["progress"]

    def _result(self) -> dict[str, Any]:
        accuracy = self.progress["accuracy"]
        spent = self._timer.cost()
        seconds = self._before + spent.seconds
        return {
            "suite": self.config["suite"],
            "strategy": self.config["strategy"],
            "seed": self.config["seed"],
            "accuracy": accuracy,
            "average_accuracy": matrix.average_accuracy(accuracy),
            "forgetting": matrix.forgetting(accuracy),
            "backward_transfer": matrix.backward_transfer(accuracy),
            "forward_transfer": matrix.forward_transfer(accuracy, self.progress["initial"]),
            "plasticity": matrix.plasticity(accuracy),
            "seconds": seconds,
            "rows_per_second": self.progress["rows"] / seconds if seconds > 0 else None,
            "peak_rss_mb": spent.peak_rss_mb,
            "growth_mb": spent.growth_mb,
            "memory_bytes": bytes_kept(self.learner, self.stream, self.config["strategy"]),
            "curve": self.progress["curve"],
            "tasks": task_names(self.config),
            "weights_sha256": weights_sha256(self.learner.model),
            "config": self.config,
            "versions": versions(),
        }


def weights_sha256(model: nn.Module) -> str:
    """Digest a model's parameters and buffers, to tell whether two are the same to the last bit.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> weights_sha256(net) == weights_sha256(nn.Linear(2, 2))
        False
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Say what a result was made with."""
    return {
        "lifelong": lifelong.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def bytes_kept(learner: Learner, stream: Stream, strategy: str) -> int:
    """Count what strategies keep between tasks; for a bound, the rows themselves."""
    if recipes.bound(strategy):
        train = stream.tasks[-1].train
        return state_bytes([train.x, train.y])
    kept = [part.state_dict() for part in learner.strategies]
    head = getattr(learner.model, "head", None)
    sums = head.held_bytes if isinstance(head, AnalyticHead) else 0
    parts = [{k: v for k, v in part.items() if k != "generator"} for part in kept]
    return state_bytes(parts) + sums
