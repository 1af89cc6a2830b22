"""Clean replay: replay whose memory is offered neither copies nor rows that look mislabelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.features import head_of, tapped
from lifelong.core.forward import evaluating
from lifelong.core.learner import Learner
from lifelong.memory import REASONS, Cleaning
from lifelong.strategies.replay import Replay


class CleanReplay(Replay):
    """Replay rows of the past, and look at new ones before the memory is offered them.

    Copies and near copies, rows whose neighbours or whose loss speak against their label, and rows
    beyond a quota are learned from like all others, but not kept; `kept_out` counts them by the
    reason. The tests are those of `lifelong.memory.Cleaning`; small loss: Han et al. 2018,
    arXiv:1804.06872 (co-teaching), here with one model, for what to keep rather than to train on.

    Features are what the head is given, computed once when a row comes, by a second forward pass
    over the new rows (for near and neighbours alone). Those of rows held are not renewed, so they
    age as the backbone learns.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take.
        copies: keep out rows that are held already, byte for byte.
        near: keep out rows whose features have a greater cosine than this to a row held.
        neighbours: how many of the nearest rows held to ask; half of them must have a row's label.
        small_loss: the share of each batch, of the smallest losses, that may be kept.
        per_class: how many rows of a class may be held.
        per_task: how many rows of a task, or another source by that id, may be held.
        **settings: as in `Replay`.

    Raises:
        ValueError: a setting out of range; from the step, a model without a head whose features
            were asked for.
        InvalidBatch: from the step, when the loss or the labels do not suit what was asked for.

    Example:
        >>> CleanReplay(capacity=200, near=0.98).kept_out["copy"]
        0
    """

    own_pace: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("memory", "counts")

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        copies: bool = True,
        near: float | None = None,
        neighbours: int | None = None,
        small_loss: float | None = None,
        per_class: int | None = None,
        per_task: int | None = None,
        **settings: Any,
    ) -> None:
        self.cleaning = Cleaning(copies, near, neighbours, small_loss, per_class, per_task)
        self.row_losses = small_loss is not None
        super().__init__(capacity, **settings)
        self.counts = torch.zeros(len(REASONS), dtype=torch.int64)
        """Rows so far, by what became of them, in the order of `lifelong.memory.REASONS`."""
        self._losses: Tensor | None = None

    @property
    def kept_out(self) -> dict[str, int]:
        """How many rows were not offered to the memory, by the reason."""
        return dict(zip(REASONS[1:], self.counts[1:].tolist(), strict=True))

    def check(
        self,
        learner: Learner,
        batch: Batch,
        more: Mapping[str, Tensor] | None = None,
        wider: str | None = None,
    ) -> None:
        """Make sure that the new rows can be kept, with what is kept of them beside."""
        if self.cleaning.looks_at_features:
            head_of(learner.model)  # which `after_step` will look behind
        own = dict(more or {})
        if self.memory.budget and not self.memory.nbytes:  # room is counted for the first rows
            first = batch.rows(slice(1))
            features = self._features(learner, first) if self.cleaning.looks_at_features else None
            own |= self.cleaning.columns(self.kept(first), features)
        super().check(learner, batch, own, wider)

    @torch.no_grad()
    def penalty(self, learner: Learner, batch: Batch, output: Any) -> float:
        """Add nothing; look at the losses of the new rows, if they are asked for."""
        if batch.y.ndim != 1 or batch.y.is_floating_point():
            raise InvalidBatch(f"y is {batch.y.dtype} of shape {tuple(batch.y.shape)}, no classes")
        self._losses = None
        if self.cleaning.small_loss is not None:
            losses = learner.loss(output, replace(batch, weight=None))
            self._losses = losses[: batch.new].detach()
        return 0.0

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer the new rows that pass."""
        del output
        device = self.memory.device
        columns = {name: column.to(device) for name, column in self.kept(batch).items()}
        features = self._features(learner, batch) if self.cleaning.looks_at_features else None
        found = {"losses": self._losses, "features": features}
        reason = self.cleaning.judge(columns, self.memory, **found)
        there = reason.to(self.counts.device)
        self.counts = self.counts + torch.bincount(there, minlength=len(REASONS))
        passed = torch.nonzero(reason == 0).flatten()
        columns = {**columns, **self.cleaning.columns(columns, features)}
        offered = {name: column[passed] for name, column in columns.items()}
        group = offered["y" if self.by == "class" else "task"]
        self.memory.add(offered, group, self.generator)

    @torch.no_grad()
    def _features(self, learner: Learner, batch: Batch) -> Tensor:
        with evaluating(learner.model), learner.autocast(), tapped(learner.model) as tap:
            learner.output(batch.rows(slice(batch.new)))
        return tap.features.flatten(1)
