"""Experience replay (ER): learn new rows together with rows kept from the past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import InvalidBatch, UnknownName
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.memory import Codec, Memory

FILLS = ("step", "task")
"""When rows can enter a memory."""


class Replay(Strategy):
    """Append rows drawn from a memory to every batch, and offer the new rows to the memory.

    loss = mean over the new and the replayed rows together of the row loss
    Chaudhry et al. 2019, arXiv:1902.10486 (experience replay with a reservoir); Vitter 1985.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take: "10MB".
        rows: how many to replay with each batch; None for as many as are new.
        policy: which rows stay: "reservoir" (a uniform sample of all that came), "ring" (the
            latest of each group) or "balanced" (a uniform sample of each group).
        by: the groups of the ring and balanced policies: "class" (y) or "task".
        every: replay with every so many-th batch only, at that fraction of the cost; where the
            learner accumulates as many batches, that is once in each of its steps.
        fill: when rows enter the memory: with each "step", or at the end of each "task", from the
            rows that `end_task` is given, so that only earlier tasks are replayed while one lasts.
        device: where the memory lies, for instance "cuda".
        path: a folder, to hold the memory in files on disk instead.
        store: how to keep the inputs in fewer bytes: "fp16", "int8", "uint8" (of values from 0
            to 1), "jpeg" (of images in bytes), or a codec; None to keep them as they come.

    Raises:
        ValueError: the capacity, the number of rows or `every` is not positive.
        UnknownName: there is no such policy, way to store, or time to fill.

    Example:
        >>> len(Replay(capacity=500).memory)
        0
    """

    state: ClassVar[tuple[str, ...]] = ("memory",)
    own_pace: ClassVar[bool] = False
    """Whether the method itself says when rows enter, so that `fill` is not to be chosen."""

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        rows: int | None = None,
        policy: str = "reservoir",
        by: Literal["class", "task"] = "class",
        every: int = 1,
        fill: str = "step",
        device: str | torch.device = "cpu",
        path: str | Path | None = None,
        store: str | Codec | None = None,
    ) -> None:
        if rows is not None and rows < 1:
            raise ValueError(f"rows is {rows}; it must be 1 or more, or None for as many as new")
        if by not in ("class", "task"):
            raise ValueError(f"by is {by!r}; choose 'class' or 'task'")
        if every < 1:
            raise ValueError(f"every is {every}; it must be 1 or more (1 replays with each batch)")
        if fill not in FILLS:
            raise UnknownName("time to fill", fill, FILLS)
        if fill != "step" and self.own_pace:
            raise ValueError(
                f"fill is {fill!r}; {type(self).__name__} itself says when rows enter its memory: "
                "leave fill out"
            )
        self.rows = rows
        self.by = by
        self.every = every
        self.fill = fill
        self.memory = Memory(capacity, policy, device=device, path=path, store=store)
        self._counted = 0, 0  # of how many tasks the classes have been counted, and how many

    @property
    def capacity(self) -> int | str:
        """What the memory was given: rows, or bytes, such as "10000000B"."""
        budget = self.memory.budget
        return self.memory.capacity if budget is None else f"{budget}B"

    @property
    def shared(self) -> bool:
        """Whether the memory must have room for a row of each class or task."""
        return self.memory.budget is not None or self.memory.policy.sharing is not None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append rows from the memory.

        Raises:
            InvalidBatch: the new rows could not be kept, for their columns, values or groups.
            BudgetTooSmall: the memory has no room for a row of each class, or task.
        """
        return self.extended(learner, batch)[0]

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer the new rows to the memory."""
        self.store(learner, batch, output)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Offer the rows of the task to the memory."""
        for batch in data:
            self.store(learner, batch, None)

    def store(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer the new rows of a batch to the memory.

        Args:
            learner: which learns, or has learned, from them.
            batch: the rows.
            output: what it has just answered to the batch; None where it has not been asked.
        """
        del learner, output
        self.keep(batch, {})

    def acts(self, moment: str) -> bool:
        """Tell whether it does anything at a moment; when rows enter the memory can be chosen."""
        if moment == "after_step" and self.fill == "task":
            return False
        if moment == "consolidate" and type(self).consolidate is Replay.consolidate:
            return self.fill == "task"
        return super().acts(moment)

    def forget(self, keys: Tensor) -> int:
        """Erase the rows with these ids from the memory, and count them."""
        return self.memory.forget(keys)

    def draw(
        self, learner: Learner, batch: Batch, times: int = 1, *, rows: int | None = None
    ) -> dict[str, Tensor]:
        """Draw the columns of as many rows as one batch replays, to the learner's device.

        With several `times`, that many independent draws follow each other; with `rows`, each is
        of so many. Empty where this batch is to be learned alone.
        """
        self.check(learner, batch)
        if not self.due(learner):
            return {}
        drawn = self.memory.draw(rows or self.count(batch), self.generator, times)
        if self.memory.device == learner.device:
            return drawn
        return {name: column.to(learner.device) for name, column in drawn.items()}

    def extended(
        self, learner: Learner, batch: Batch, times: int = 1, weight: float = 1.0
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Draw as `draw` does, and append the rows to a batch.

        Returns:
            The batch with the rows, which have this weight in the loss, and every column drawn;
            no columns where this batch is to be learned alone.
        """
        if self.memory.device != learner.device:
            drawn = self.draw(learner, batch, times)
            longer = batch.extended(batch_of_columns(drawn)) if drawn else batch
        else:
            self.check(learner, batch)
            if not self.due(learner):
                return batch, {}
            front = {name: column for name, column in batch.columns() if name != "weight"}
            drawn = self.memory.draw(self.count(batch), self.generator, times, front)
            longer = batch_of_columns(drawn, batch.new)
        if drawn and (batch.weight is not None or weight != 1):
            weights = torch.full((len(longer),), weight, device=batch.y.device)
            weights[: len(batch)] = 1 if batch.weight is None else batch.weight
            longer = replace(longer, weight=weights)
        return longer, drawn

    def count(self, batch: Batch) -> int:
        """Tell how many rows to replay with a batch."""
        return self.rows or batch.new

    def due(self, learner: Learner) -> bool:
        """Tell whether the next batch is one to replay with, and there are rows for it."""
        return len(self.memory) > 0 and (learner.batches + 1) % self.every == 0

    def check(
        self,
        learner: Learner,
        batch: Batch,
        more: Mapping[str, Tensor] | None = None,
        wider: str | None = None,
    ) -> None:
        """Make sure that the new rows of a batch can be kept.

        Args:
            learner: which learns from the batch.
            batch: whose new rows are to be kept.
            more: examples of the columns that are kept beside those of the batch.
            wider: which of them the memory will be widened for.

        Raises:
            InvalidBatch: they cannot, for their columns, their values or their groups.
            BudgetTooSmall: the memory has no room for a row of each class, or task.
        """
        columns = {**self.kept(batch), **(more or {})}
        self.memory.check(columns, self.groups(learner), wider, self.group(columns))
        grouped = self.by == "class" and self.memory.policy.name in ("ring", "balanced")
        if grouped and (batch.y.ndim != 1 or batch.y.is_floating_point()):
            raise InvalidBatch(
                f"y is {batch.y.dtype} of shape {tuple(batch.y.shape)}, no classes to group by; "
                'take policy="reservoir" or by="task"'
            )

    def keep(self, batch: Batch, more: dict[str, Tensor]) -> None:
        """Offer the new rows of a batch, with more columns, to the memory."""
        own = self.kept(batch)
        self.memory.add({**own, **more}, self.group(own), self.generator)

    def kept(self, batch: Batch) -> dict[str, Tensor]:
        """Take the columns of the new rows of a batch that the memory keeps."""
        columns = {name: column for name, column in batch.columns() if name != "weight"}
        if batch.new == len(batch):
            return columns
        return {name: column[: batch.new] for name, column in columns.items()}

    def group(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Take the class of each row, or the task, whichever the memory shares its room among."""
        return columns["y" if self.by == "class" else "task"]

    def groups(self, learner: Learner) -> int:
        """Count the classes or tasks told, where the memory must hold a row of each."""
        if not self.shared:
            return 1
        if self.by == "task":
            return len(learner.tasks)
        if self._counted[0] != len(learner.tasks):
            told = {label for task in learner.tasks for label in task.classes}
            self._counted = len(learner.tasks), len(told)
        return self._counted[1] or 1
