"""What a learner would have answered to rows as they came, by the delay of what is served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lifelong.core import restore
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Trainer
from lifelong.serve.weights import model_of, weights_of

NEVER = 0
"""The interval of what is served as it was at the start, for ever."""


class Answers:
    """Answer rows before they are learned from, with the weights that would have been served.

    What is served with interval k is the learner as it was after the last of its steps whose
    number is a multiple of k: with 1 it is the learner itself, with `NEVER` the learner that there
    was when this was made. Whoever trains calls `answer` before each step, with the rows that came
    since the one before.

    Args:
        trainer: whose learner answers.
        intervals: steps between syncs.

    Raises:
        ValueError: an interval is negative, or comes twice.
    """

    def __init__(self, trainer: Trainer, intervals: Sequence[int] = (1,)) -> None:
        if min(intervals) < 0 or len(set(intervals)) < len(intervals):
            raise ValueError(f"intervals {list(intervals)}; give different numbers, 0 or more")
        self.trainer = trainer
        self.right = {interval: bytearray() for interval in intervals}
        """Of each row, 1 if it was answered rightly and 0 if not."""
        self.seconds = 0.0
        """Spent here, in all."""
        self._steps: dict[int, int] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self._served: dict[int, Snapshot] = {}
        self._sync()

    def answer(self, x: NDArray[np.generic], y: Sequence[int], task: Sequence[int | None]) -> None:
        """Note whether rows are answered rightly, by what each interval serves.

        Args:
            x: (rows, ...).
            y: the labels.
            task: with which they were asked, None where there was none.
        """
        started = time.perf_counter()
        self._sync()
        if len(y):
            tasks = np.array([-1 if one is None else one for one in task], np.int64)
            for interval, right in self.right.items():
                right.extend((self._labels(interval, x, tasks) == np.array(y)).astype(np.uint8))
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """Return what was noted, and what is served."""
        right = {str(k): torch.tensor(list(v), dtype=torch.uint8) for k, v in self.right.items()}
        served = {str(k): {"step": self._steps[k], "state": s} for k, s in self._states.items()}
        return {"right": right, "served": served, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.seconds = state["seconds"]
        self.right = {int(k): bytearray(right.tolist()) for k, right in state["right"].items()}
        for name, one in state["served"].items():
            interval = int(name)
            self._steps[interval], self._states[interval] = one["step"], one["state"]
            model = model_of(self.trainer.make, one["state"])
            self._served[interval] = Snapshot(0, model, probabilities=False)

    def _sync(self) -> None:
        learner = self.trainer.learner
        for interval in self.right:
            held = self._steps.get(interval)
            due = interval != NEVER and learner.batches % interval == 0
            if interval != 1 and (held is None or (due and held != learner.batches)):
                self._steps[interval] = learner.batches
                self._states[interval] = restore.copied(weights_of(learner))
                self._served[interval] = Snapshot(0, learner.model, probabilities=False)

    def _labels(
        self, interval: int, x: NDArray[np.generic], tasks: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if interval == 1:
            output = self.trainer.learner.predict(torch.from_numpy(x), torch.from_numpy(tasks))
            rows = output.float().cpu().numpy()
        else:
            rows = self._served[interval].predict(x.astype(np.float32), tasks)
        labels: NDArray[np.int64] = rows.reshape(len(x), -1).argmax(1)
        return labels
