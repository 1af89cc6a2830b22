"""Exemplars: replay rows that were chosen at the end of each task to stand for its classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import BudgetTooSmall, UnknownName
from lifelong.core.features import head_of, tapped
from lifelong.core.forward import evaluating
from lifelong.core.learner import Learner
from lifelong.memory import SELECTIONS, Codec
from lifelong.memory.groups import shares
from lifelong.strategies.class_ids import check_class_ids
from lifelong.strategies.replay import Replay

_CLASSES = "exemplars are chosen of each: take Replay, whose reservoir needs none"


class Exemplars(Replay):
    """Append exemplars to every batch: rows that were chosen by their features when a task ended.

    herding:  p_k = argmin over rows of a class of |mean - (f + f_p1 + ... + f_p(k-1)) / k|
    k-center: p_k = argmax over rows of a class of min over j < k of |f - f_pj|
    Rebuffi et al. 2017, arXiv:1611.07725 (iCaRL's exemplars; Welling 2009);
    Sener & Savarese 2018, arXiv:1708.00489 (core-sets).

    f is what the head is given, divided by its norm. All classes share the memory equally; those
    that a task does not bring keep the first of theirs, in the order of choice. Where a class
    comes again, its exemplars are chosen from those held and the new rows together, which the
    papers do not speak of. While a task lasts only those of earlier tasks are replayed.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take: "10MB".
        select: "herding" or "k-center".
        rows: how many to replay with each batch; None for as many as are new.
        device: where the memory lies.
        path: a folder, to hold the memory in files instead.
        store: how to keep the inputs in fewer bytes, as in `Replay`.

    Raises:
        UnknownName: there is no such way to select, or to store.
        ValueError: from the step, a model without a head.
        InvalidBatch: labels are no classes.
        BudgetTooSmall: more classes than rows; from the step, where tasks name their classes, else
            from `consolidate`.

    Example:
        >>> Exemplars(capacity=200, select="k-center").select
        'k-center'
    """

    own_pace: ClassVar[bool] = True

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        select: str = "herding",
        rows: int | None = None,
        device: str | torch.device = "cpu",
        path: str | Path | None = None,
        store: str | Codec | None = None,
    ) -> None:
        if select not in SELECTIONS:
            raise UnknownName("way to select", select, SELECTIONS)
        self.select = select
        super().__init__(capacity, rows=rows, device=device, path=path, store=store)

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append exemplars, once it is sure that others can be chosen when the task is over."""
        check_class_ids(batch.y, _CLASSES)
        head_of(learner.model)
        return super().extend(learner, batch)

    @property
    def shared(self) -> bool:
        """All classes share the memory."""
        return True

    def check(
        self,
        learner: Learner,
        batch: Batch,
        more: Mapping[str, Tensor] | None = None,
        wider: str | None = None,
    ) -> None:
        """Make sure that rows such as these can be kept, each with its rank, of all classes."""
        rank = torch.zeros(batch.new, dtype=torch.int32)
        super().check(learner, batch, {"rank": rank, **(more or {})}, wider)
        if self.memory.budget is None:  # else it has been counted in bytes
            self._check_room(self.groups(learner))

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer nothing: rows are chosen when the task is over."""

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Choose exemplars of the classes that the task brought, and let the others give way."""
        parts = [self.kept(batch) for batch in data]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        check_class_ids(columns["y"], _CLASSES)
        columns["rank"] = torch.zeros(len(columns["y"]), dtype=torch.int32)
        self.memory.reserve(columns, len(torch.unique(columns["y"])))
        old, new = self.memory.column("y").cpu(), columns["y"].cpu()
        rank = torch.cat((self.memory.column("rank").cpu(), columns["rank"]))
        features = self._features(learner, batch_of_columns(columns))
        again = torch.nonzero(torch.isin(old, new)).flatten()
        before = features.new_zeros(len(old), features.shape[1])  # of other classes none is asked
        if len(again):
            before[again] = self._features(learner, batch_of_columns(self.memory.read(again)))
        chosen = self._choose(torch.cat((old, new)), rank, len(old), torch.cat((before, features)))
        for rows in chosen:
            rank[rows] = torch.arange(len(rows), dtype=torch.int32)
        index = torch.cat(chosen)
        keep, take = index[index < len(old)], index[index >= len(old)] - len(old)
        columns = {name: column[take.to(column.device)] for name, column in columns.items()}
        columns["rank"] = rank[take + len(old)]
        self.memory.refill(columns, None, self.generator, keep)
        self.memory.write(torch.arange(len(keep)), {"rank": rank[keep]})

    def _choose(self, y: Tensor, rank: Tensor, old: int, features: Tensor) -> list[Tensor]:
        """Choose rows of each class, best first: of classes without new rows, the first held.

        Args:
            y: (rows,) of those held and the new ones.
            rank: (rows,) the order in which those held were chosen.
            old: how many are held.
            features: (rows, features), of classes with new rows.
        """
        labels, wanted = torch.unique(y, return_counts=True)
        self._check_room(len(labels))
        before = torch.bincount(torch.searchsorted(labels, y[:old]), minlength=len(labels))
        room = shares(wanted.numpy(), before.numpy(), self.memory.capacity)
        chosen = []
        for label, count in zip(labels, room.tolist(), strict=True):
            rows = torch.nonzero(y == label).flatten()
            if rows[-1] < old:
                best = np.argsort(rank[rows].numpy(), kind="stable")[:count]
                chosen.append(rows[torch.from_numpy(best)])
            else:
                chosen.append(rows[SELECTIONS[self.select](features[rows], count)])
        return chosen

    def _check_room(self, classes: int) -> None:
        """Raise `BudgetTooSmall` unless there is room for a row of each class."""
        if classes > self.memory.capacity:
            raise BudgetTooSmall(
                f"a memory of {self.memory.capacity} rows for exemplars of {classes} classes; "
                f"give it room for at least {classes} rows"
            )

    def _features(self, learner: Learner, batch: Batch, at_once: int = 512) -> Tensor:
        """Compute what the head is given, of norm 1, (rows, features) on the CPU."""
        parts = []
        with evaluating(learner.model), learner.autocast(), tapped(learner.model) as tap:
            for start in range(0, len(batch), at_once):
                learner.output(batch.rows(slice(start, start + at_once)))
                parts.append(F.normalize(tap.features.float().flatten(1)).cpu())
        return torch.cat(parts)
