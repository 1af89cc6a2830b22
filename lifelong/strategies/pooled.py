"""POD: distillation of features and of pooled maps inside the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.core.undisturbed import undisturbed
from lifelong.nets.heads import FLOOR
from lifelong.strategies.features import FeatureDistillation
from lifelong.strategies.glimpse import Glimpse
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.teacher import Rows


class PooledDistillation(FeatureDistillation):
    """Keep the maps inside a convolutional network as they were, pooled along height and width.

    penalty = strength * (mean over layers, rows of |p(h(x)) - p(h_teacher(x))|
                          + flat * mean over rows of 1 - cos(f(x), f_teacher(x)))
    p(h) = [sum over height of h**2, sum over width of h**2] / its length
    Douillard et al. 2020, arXiv:2004.13513 (PODNet; strength * flat is lambda_f).

    The layers are, unless named, the last module that learns at each size of map: the ends of the
    stages of a ResNet. The paper takes a stage's output before its last ReLU, here it is what the
    module gives. The paper's strengths grow with sqrt(classes / new classes): see
    `Adaptive(..., schedule=ClassRatio())`. Its classifier of several proxies a class is not part
    of this. A model without maps, such as an MLP, has the second term alone.

    Args:
        strength: of the pooled term; 3 for CIFAR-100 in the paper.
        flat: weight of the features' term beside it; in the paper 1 / 3.
        layers: names of modules whose outputs are (rows, channels, height, width); None to find.
        rows: which to compare: "new", "replayed", or "all" of a batch as in the paper.

    Raises:
        ValueError: a negative strength or weight, other rows; from the step, a model without a
            head, or without a module of that name that gives maps in front of it.

    Example:
        >>> PooledDistillation(layers=["blocks.1", "blocks.3"]).layers
        ['blocks.1', 'blocks.3']
    """

    state: ClassVar[tuple[str, ...]] = ("teacher", "layers")

    def __init__(
        self,
        strength: float = 3.0,
        *,
        flat: float = 1 / 3,
        layers: Sequence[str] | None = None,
        rows: Rows = "all",
    ) -> None:
        super().__init__(strength, rows=rows)
        self.flat = checked_strength(flat)
        self.layers = list(layers or ())
        self._named = layers is not None

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Take the model as it is for the next teacher, and look where its maps are."""
        super().consolidate(learner, data)
        if not self._named:
            self.layers = last_of_each_size(learner, next(iter(data)).rows(slice(1)))

    def _layers(self) -> list[str]:
        return self.layers

    def _check(self, now: Glimpse) -> None:
        super()._check(now)
        for name in self.layers:
            seen: Any = now.maps.get(name)
            if isinstance(seen, Tensor) and seen.ndim == 4:
                continue
            found = f"gives {tuple(seen.shape)}" if isinstance(seen, Tensor) else "gives none"
            raise ValueError(
                f"module {name!r} {found} in front of the head; name modules whose outputs are "
                "maps, (rows, channels, height, width), or leave layers out"
            )

    def _apart(self, now: Glimpse, then: Glimpse) -> Tensor:
        flat = self.flat * super()._apart(now, then)
        if not self.layers:
            return flat
        apart = [_pooled(now.maps[name]) - _pooled(then.maps[name]) for name in self.layers]
        return torch.stack([rows.norm(dim=1).mean() for rows in apart]).mean() + flat


def last_of_each_size(learner: Learner, row: Batch) -> list[str]:
    """Name the last module that gives a map of each height and width, among those that learn."""
    last: dict[tuple[int, ...], str] = {}

    def note(name: str) -> Any:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            if isinstance(output, Tensor) and output.ndim == 4 and output.requires_grad:
                last[tuple(output.shape[2:])] = name

        return see

    named = [(name, module) for name, module in learner.model.named_modules() if name]
    hooks = [module.register_forward_hook(note(name)) for name, module in named]
    try:
        with undisturbed(learner.model):
            learner.output(row)
    finally:
        for hook in hooks:
            hook.remove()
    return list(last.values())


def _pooled(maps: Tensor) -> Tensor:
    energy = maps.float().square()  # (rows, channels, height, width)
    sums = torch.cat((energy.sum(2).flatten(1), energy.sum(3).flatten(1)), 1)
    return F.normalize(sums, dim=1, eps=FLOOR**2)
