"""Distillation of features: what the head is given stays what it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets.heads import FLOOR
from lifelong.strategies.glimpse import Glimpse
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.teacher import Frozen, Rows, answers, checked_rows, chosen, snapshot


class FeatureDistillation(Strategy):
    """Keep the features of every row close to those that the model of the last task had for it.

    penalty = strength * mean over rows of 1 - cos(f(x), f_teacher(x))          "cosine"
    penalty = strength * mean over rows and features of (f(x) - f_teacher(x))**2    "squared"
    Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR, CVPR),
    the less-forget constraint.

    f is what the head of the model is given (`lifelong.core.features.head_of`). The head itself
    is free, so beside this it wants replay, as in the paper, whose cosine head is `CosineHead`
    and whose growing strength is `Adaptive(..., schedule=ClassRatio())`. The margin ranking loss
    of the paper is left out.

    Args:
        strength: of the penalty; 5 for CIFAR-100 and 10 for ImageNet in the paper.
        distance: "cosine" leaves the length of the features free, "squared" holds it too.
        rows: which to compare: "new", "replayed", or "all" of a batch as in the paper.

    Raises:
        ValueError: a negative strength, or another distance or other rows; from the step, a
            model without a head, or whose forward does not call it.

    Example:
        >>> FeatureDistillation(strength=5.0).distance
        'cosine'
    """

    state: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(
        self,
        strength: float = 5.0,
        *,
        distance: Literal["cosine", "squared"] = "cosine",
        rows: Rows = "all",
    ) -> None:
        if distance not in ("cosine", "squared"):
            raise ValueError(f"distance is {distance!r}; choose 'cosine' or 'squared'")
        self.strength = checked_strength(strength)
        self.distance = distance
        self.rows = checked_rows(rows)
        self.teacher: dict[str, Tensor] = {}
        self._frozen = Frozen()
        self._now = Glimpse()
        self._looked = False

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Watch the forward pass that follows, in the first step to see what there will be."""
        if self.teacher or not self._looked:
            self._now.watch(learner.model, self._layers())
        return batch

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Distance between the features now and the teacher's."""
        del output
        now, self._now = self._now, Glimpse()  # holds on to no activation after the step
        if not self._looked:
            self._check(now)
            self._looked = True
        where = chosen(batch, self.rows)
        if not self.teacher or where.start == where.stop:
            return 0.0
        teacher, then = self._frozen.of(learner, self.teacher), Glimpse()
        then.watch(teacher, self._layers())
        answers(learner, teacher, batch.rows(where))
        return self.strength * self._apart(now.rows(where), then)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Take the model as it is for the next teacher."""
        del data
        self.teacher = snapshot(learner.model)

    def _layers(self) -> list[str]:
        """Name the modules to look at beside the head."""
        return []

    def _check(self, now: Glimpse) -> None:
        """Look whether what was seen can be compared, before there is a teacher to compare with."""
        _ = now.features  # raises if there are none

    def _apart(self, now: Glimpse, then: Glimpse) -> Tensor:
        """Measure how far the model is from its teacher, on the same rows."""
        own, taught = now.features.flatten(1).float(), then.features.flatten(1).float()
        if self.distance == "squared":
            return F.mse_loss(own, taught)
        # The floor bounds the gradient of features near zero, whose direction means nothing.
        return 1 - torch.cosine_similarity(own, taught, dim=1, eps=FLOOR).mean()
