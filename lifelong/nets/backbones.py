"""Networks that turn inputs into features; `features` is how many."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with ReLUs between them, on flattened inputs.

    The default is the 784-400-400 network of most permuted and split MNIST tables.

    Args:
        inputs: numbers in one row, after flattening.
        hidden: widths of the hidden layers, each followed by a ReLU.
        outputs: width of a last linear layer; None to end in the features.

    Shapes: (rows, ...) to (rows, features), or to (rows, outputs).

    Raises:
        ValueError: a width that is not positive, or rows of another size than `inputs`.

    Example:
        >>> import torch
        >>> net = MLP(784, hidden=(100,))
        >>> net.features, net(torch.zeros(2, 1, 28, 28)).shape
        (100, torch.Size([2, 100]))
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int] = (400, 400), outputs: int | None = None
    ) -> None:
        super().__init__()
        _positive(inputs=inputs, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        self.inputs = inputs
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.features = inputs
        self.layers = nn.Sequential(*layers)
        self.output = _output(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Flatten the rows and pass them through the layers."""
        x = x.flatten(1)
        if x.shape[1] != self.inputs:
            raise ValueError(f"rows of {x.shape[1]} numbers; this MLP takes {self.inputs}")
        x = self.layers(x)
        return self.output(x)  # type: ignore[no-any-return]


class SmallCNN(nn.Module):
    """Pairs of 3x3 convolutions, each pair ending in a 2x2 max pool, then one hidden layer.

    The default is the CIFAR network of Zenke, Poole & Ganguli 2017 (arXiv:1703.04200), except
    that it has no dropout (a stream is seen once or a few times) and pads every convolution.

    Args:
        channels: of the input.
        size: height and width of the input, one number for both or (height, width).
        widths: channels of each pair of convolutions.
        hidden: width of the hidden layer, which is the number of features.
        outputs: width of a last linear layer; None to end in the features.

    Shapes: (rows, channels, height, width) to (rows, features), or to (rows, outputs).

    Raises:
        ValueError: a width that is not positive, or images too small for the pools.

    Example:
        >>> import torch
        >>> net = SmallCNN(channels=1, size=8, widths=(4, 8), hidden=16)
        >>> net.features, net(torch.zeros(2, 1, 8, 8)).shape
        (16, torch.Size([2, 16]))
    """

    def __init__(
        self,
        channels: int = 3,
        size: int | tuple[int, int] = 32,
        widths: Sequence[int] = (32, 64),
        hidden: int = 512,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        _positive(
            channels=channels,
            hidden=hidden,
            **{f"widths[{i}]": width for i, width in enumerate(widths)},
        )
        height, width = (size, size) if isinstance(size, int) else size
        area = (height >> len(widths)) * (width >> len(widths))
        if area <= 0:
            raise ValueError(
                f"images of {height}x{width} vanish after {len(widths)} pools; give fewer widths"
            )
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        layers += [nn.Flatten(), nn.Linear(channels * area, hidden), nn.ReLU()]
        self.features = hidden
        self.layers = nn.Sequential(*layers)
        self.output = _output(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Pass the rows through the layers."""
        x = self.layers(x)
        return self.output(x)  # type: ignore[no-any-return]


class ResNet18(nn.Module):
    """The ResNet-18 of small images: 3x3 stem of stride 1, no max pool, four stages of two blocks.

    With width 20 it is the reduced network of GEM (Lopez-Paz & Ranzato 2017, arXiv:1706.08840):
    1.09 million parameters and 160 features. With width 64 it is the full one of DER and most
    class-incremental tables (Buzzega et al. 2020, arXiv:2004.07211): 11.17 million and 512.
    Both come from He et al. 2015 (arXiv:1512.03385), and keep torch's default initialisation.
    The last pool averages over whatever is left: over 4x4 from images of 32x32, as in GEM; for
    larger images GEM would keep several windows, here the number of features does not change.
    For speed on a GPU: `model.to(memory_format=torch.channels_last)`.

    Args:
        channels: of the input.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        outputs: width of a last linear layer; None to end in the features.

    Shapes: (rows, channels, height, width) to (rows, features), or to (rows, outputs).

    Raises:
        ValueError: a width that is not positive.

    Example:
        >>> import torch
        >>> net = ResNet18(channels=1, width=4)
        >>> net.features, net(torch.zeros(2, 1, 16, 16)).shape
        (32, torch.Size([2, 32]))
        >>> sum(p.numel() for p in ResNet18(width=20).parameters())
        1093140
    """

    def __init__(self, channels: int = 3, width: int = 64, outputs: int | None = None) -> None:
        super().__init__()
        _positive(channels=channels, width=width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks, before = [], width
        for stage in range(4):
            after = width << stage
            blocks += [Residual(before, after, min(stage, 1) + 1), Residual(after, after)]
            before = after
        self.features = before
        self.blocks = nn.Sequential(*blocks)
        self.output = _output(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Pass the rows through stem, blocks and the average over the image."""
        x = F.relu(self.norm(self.stem(x)))
        x = self.blocks(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (rows, features)
        return self.output(x)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change.

    Shapes: (rows, before, height, width) to (rows, after, height / stride, width / stride).

    Example:
        >>> import torch
        >>> Residual(2, 4, stride=2)(torch.zeros(1, 2, 8, 8)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Add the two branches."""
        # No ReLU works in place: hooks that read a layer's output must find what it computed.
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def _output(features: int, outputs: int | None) -> nn.Module:
    if outputs is None:
        return nn.Identity()
    _positive(outputs=outputs)
    return nn.Linear(features, outputs)


def _positive(**widths: int) -> None:
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"{name} is {width}; it must be 1 or more")
