"""A network as stages, one for each layer with weights: what growing and masked ones build on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

Layer: TypeAlias = nn.Linear | nn.Conv2d


class Stage(nn.Module):
    """A layer with weights, what comes before it (a flattening) and what follows.

    h = after(layer(before(h)))

    Attributes:
        units: outputs of the layer: units, or channels.

    Example:
        >>> Stage(nn.Linear(4, 3), [nn.ReLU()]).units
        3
    """

    units: int
    layer: Layer

    def __init__(
        self, layer: Layer, after: Sequence[nn.Module] = (), before: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.before = nn.Identity() if before is None else before
        self.layer = layer
        self.after = nn.Sequential(*after)
        self.units = len(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage's outputs."""
        return self.after(self.layer(self.before(x)))  # type: ignore[no-any-return]


def stages_of(backbone: nn.Module) -> list[Stage]:
    """Cut a backbone into stages; its modules are used, not copied.

    Args:
        backbone: an `MLP`, a `SmallCNN`, another with `layers`, or an `nn.Sequential`; its first
            module must be linear or a convolution, or flatten what a linear one is given.

    Raises:
        ValueError: the modules do not follow one another in one sequence.

    Example:
        >>> from lifelong.nets import MLP
        >>> [stage.units for stage in stages_of(MLP(4, hidden=(8, 6)))]
        [8, 6]
    """
    layers = getattr(backbone, "layers", backbone)
    modules = list(layers) if isinstance(layers, nn.Sequential) else []
    flat = bool(modules) and isinstance(modules[0], nn.Flatten)
    first = modules[flat : flat + 1]
    if not first or not isinstance(first[0], nn.Linear if flat else Layer):
        raise ValueError(
            f"{type(backbone).__name__} is no sequence that begins with a linear layer or a "
            "convolution; take an MLP, a SmallCNN or such an nn.Sequential, and give what comes "
            "before that as front"
        )
    stages: list[Stage] = []
    before: nn.Module | None = nn.Flatten() if isinstance(modules[0], nn.Linear) else None
    for module in modules:
        if isinstance(module, Layer):
            stages.append(Stage(module, (), before))
            before = None
        elif before is not None:
            raise ValueError(
                f"{type(module).__name__} follows nn.Flatten; put a linear layer there"
            )
        elif isinstance(module, nn.Flatten):
            before = module
        else:
            stages[-1].after.append(module)
    return stages


def features_of(stages: list[Stage]) -> int:
    """Tell how many features the last stage has.

    Raises:
        ValueError: it is a convolution, whose outputs are maps.

    Example:
        >>> features_of([Stage(nn.Linear(4, 3))])
        3
    """
    if not isinstance(stages[-1].layer, nn.Linear):
        raise ValueError("the last layer is a convolution; end in a linear layer, as SmallCNN does")
    return stages[-1].units
