"""WA: weight aligning of the outputs of new classes with those of old ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from lifelong.core.batch import Batch
from lifelong.core.features import head_of
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets.nearest_mean import linear_outputs
from lifelong.strategies.class_ids import check_class_ids

_CLASSES = "the outputs of new classes are aligned with old ones': leave it out for other targets"


class WA(Strategy):
    """At the end of a task, scale the weights of new classes to the norm of those of old ones.

    w_c <- w_c * (mean norm of the old classes' weights / mean norm of the new classes' weights)
    Zhao et al. 2020, arXiv:1911.07053 (maintaining discrimination and fairness).

    Put it behind `Replay` and `LwF`, whose sum is the rest of the paper's method. Weights are
    scaled in place, so the optimizer keeps its parameters; its moments stay too, and the next
    few steps wash them out. Biases are left alone; so is every weight where those of the new or of
    the old classes are all 0. The paper also keeps the head's weights positive; here they may have
    any sign.

    Raises:
        ValueError: from the step, a head without linear weights for each class.
        InvalidBatch: labels are no classes.

    Example:
        >>> WA().seen
        []
    """

    state: ClassVar[tuple[str, ...]] = ("seen",)

    def __init__(self) -> None:
        self.seen: list[int] = []
        """The classes of earlier tasks."""

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> float:
        """Add nothing; look at what the end of the task will need, before anything is learned."""
        del output
        check_class_ids(batch.y, _CLASSES)
        linear_outputs(head_of(learner.model))
        return 0.0

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Align the classes that are among these rows for the first time."""
        layers = linear_outputs(head_of(learner.model))
        new, both = told_apart(self.seen, data)
        if self.seen and new:
            norms = torch.cat([layer.weight.norm(dim=1) for layer in layers])
            scale = torch.ones_like(norms)
            ratio = norms[self.seen].mean() / norms[new].mean()
            # Where all weights of either are 0, there is no norm to bring the others to.
            scale[new] = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
            sizes = [layer.out_features for layer in layers]
            parts = scale.split(sizes)  # type: ignore[no-untyped-call]
            for layer, part in zip(layers, parts, strict=True):
                layer.weight.mul_(part[:, None])
        self.seen = both


def told_apart(seen: list[int], data: Iterable[Batch]) -> tuple[list[int], list[int]]:
    """List the classes that these rows bring, and all of them with those seen before.

    Example:
        >>> told_apart([0], [Batch.of(torch.zeros(3, 1), torch.tensor([2, 0, 1]))])
        ([1, 2], [0, 1, 2])
    """
    found = set()
    for batch in data:
        check_class_ids(batch.y, _CLASSES)
        found |= {int(c) for c in torch.unique(batch.y)}
    return sorted(found - {*seen}), sorted({*found, *seen})
