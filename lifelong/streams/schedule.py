"""In which order, how often and how many at a time the rows of a task are delivered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from lifelong.streams.seeded import seeded


class ScheduleOptions(TypedDict, total=False):
    """The arguments of a `Schedule` that the scenarios pass on, all but the seed."""

    batch: int
    epochs: int
    iterations: int | None
    drop_last: bool
    shuffle: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """Deliver a task's rows in `epochs` passes, or in exactly `iterations` batches.

    Each pass is a fresh permutation, a pure function of (seed, task, epoch). One pass with a
    small batch (`epochs=1, batch=10`) is online, single-pass learning.

    Attributes:
        batch: rows in a batch.
        epochs: passes over each task.
        iterations: batches of each task instead of passes: as many reshuffled passes as that
            takes, of full batches only (the rest of a pass is left out, other rows each time).
        seed: of the order.
        drop_last: leave out the last batch of a pass if it is not full.
        shuffle: False delivers the rows as they lie, which keeps the order of time.

    A task of fewer rows than a batch gives them all as one batch, whatever is dropped elsewhere.

    Raises:
        ValueError: a count is less than 1, or both epochs and iterations are given.

    Example:
        >>> Schedule(batch=4).batches(10), Schedule(batch=4, epochs=2, drop_last=True).batches(10)
        (3, 4)
    """

    batch: int = 128
    epochs: int = 1
    iterations: int | None = None
    seed: int = 0
    drop_last: bool = False
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "epochs", "iterations"):
            value = getattr(self, name)
            if value is None and name == "iterations":
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be an integer of 1 or more")
        if self.iterations is not None and self.epochs != 1:
            raise ValueError(
                f"epochs is {self.epochs} and iterations is {self.iterations}; give one of them"
            )

    def batches_in_pass(self, rows: int) -> int:
        """Count the batches of one pass over so many rows."""
        if self.drop_last or self.iterations is not None:
            return max(1, rows // self.batch)
        return -(-rows // self.batch)

    def batches(self, rows: int) -> int:
        """Count all batches of a task of so many rows."""
        if self.iterations is not None:
            return self.iterations
        return self.epochs * self.batches_in_pass(rows)

    def order(self, task: int, epoch: int, rows: int) -> Tensor:
        """Order the rows of a task for one pass: (rows,) int64 positions.

        Example:
            >>> sorted(Schedule(seed=3).order(task=0, epoch=1, rows=4).tolist())
            [0, 1, 2, 3]
        """
        if not self.shuffle:
            return torch.arange(rows)
        return torch.randperm(rows, generator=seeded(self.seed, "order", task, epoch))
