"""Images on their way into a model: from bytes to floats, and varied while training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Pixels(nn.Module):
    """Turn images of bytes into normalised floats, so that streams and memories keep bytes.

    output = (x / scale - mean) / std, computed as (x - scale * mean) / (scale * std)

    Its constants are buffers that follow the model to its device and dtype (float32 unless the
    model is cast), and that stay out of the state: they are arguments, not learned.

    Args:
        mean: of x / scale, one number or one for each channel.
        std: of x / scale, likewise; positive.
        scale: what full brightness is in the input; 255 for bytes, 1 for floats up to 1.

    Shapes: (rows, channels, height, width), or any shape when mean and std are numbers. Floats are
    taken too; see `scale`.

    Raises:
        ValueError: a std or scale that is not positive, mean and std of different lengths, or
            images of another number of channels than mean and std.

    Example:
        >>> bytes = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
        >>> Pixels()(bytes)
        tensor([[0.0000, 0.2000, 1.0000]])
        >>> Pixels(mean=0.2, std=0.5)(bytes)
        tensor([[-0.4000,  0.0000,  1.6000]])
    """

    center: Tensor
    spread: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        scale: float = 255.0,
    ) -> None:
        super().__init__()
        means, stds = _numbers(mean), _numbers(std)
        if 1 not in (len(means), len(stds)) and len(means) != len(stds):
            raise ValueError(
                f"mean has {len(means)} channels, std has {len(stds)}; give both the same"
            )
        if min(stds) <= 0 or scale <= 0:
            raise ValueError(f"std is {std} and scale {scale}; both must be positive")
        self.channels = max(len(means), len(stds))
        shape = (-1, 1, 1) if self.channels > 1 else (1,)
        center = (scale * torch.tensor(means, dtype=torch.float64)).view(shape)
        spread = (scale * torch.tensor(stds, dtype=torch.float64)).view(shape)
        self.centered = not center.any()
        dtype = torch.get_default_dtype()
        self.register_buffer("center", center.to(dtype), persistent=False)
        self.register_buffer("spread", spread.to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images of any dtype; the output has the dtype of the module."""
        if self.channels > 1 and (x.ndim < 3 or x.shape[-3] != self.channels):
            raise ValueError(
                f"images of shape {tuple(x.shape)} do not have {self.channels} channels; "
                "give Pixels one mean and one std for each channel"
            )
        if x.is_floating_point():
            x = x.to(self.center.dtype)
        # Bytes become floats inside the arithmetic, by type promotion: no pass of their own.
        return x / self.spread if self.centered else (x - self.center).div_(self.spread)

    def extra_repr(self) -> str:
        """Show the constants."""
        return f"center={self.center.flatten().tolist()}, spread={self.spread.flatten().tolist()}"


class Augment(nn.Module):
    """Shift each image by up to `pad` pixels, filling with zeros, and mirror every other one.

    A random crop out of the padded image and a random horizontal flip, drawn for each row by
    itself from torch's default generator of the rows' device, and only in training mode. It keeps
    shape and dtype; put it before `Pixels`, so that zero means black and memories keep bytes.

    Args:
        pad: zeros added on each side before cropping.
        flip: mirror each image left to right with probability 1/2.

    Shapes: (rows, channels, height, width).

    Raises:
        ValueError: a negative pad, or images that do not have four dimensions.

    Example:
        >>> images = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
        >>> augment = Augment(pad=1, flip=False)
        >>> augment(images).shape, augment(images).dtype
        (torch.Size([1, 1, 3, 3]), torch.uint8)
        >>> torch.equal(augment.eval()(images), images)
        True
    """

    def __init__(self, pad: int = 4, flip: bool = True) -> None:
        super().__init__()
        if pad < 0:
            raise ValueError(f"pad is {pad}; it must be 0 or more")
        self.pad = pad
        self.flip = flip

    def forward(self, x: Tensor) -> Tensor:
        """Vary each row in training mode; return the rows as they are otherwise."""
        if not self.training:
            return x
        if x.ndim != 4:
            raise ValueError(
                f"images of shape {tuple(x.shape)}; Augment takes (rows, channels, height, width)"
            )
        rows, device = x.shape[0], x.device
        down, right = torch.randint(2 * self.pad + 1, (2, rows), device=device)
        mirror = torch.rand(rows, device=device) < 0.5 if self.flip else None
        return shifted(x, self.pad, down, right, mirror)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"pad={self.pad}, flip={self.flip}"


def shifted(x: Tensor, pad: int, down: Tensor, right: Tensor, mirror: Tensor | None) -> Tensor:
    """Cut each image out of its zero-padded self, and mirror the chosen cuts left to right.

    Args:
        x: (rows, channels, height, width), any dtype.
        pad: zeros added on each side.
        down: (rows,) int64, where each cut begins from the top, 0 to 2 * pad.
        right: (rows,) int64, where each cut begins from the left, 0 to 2 * pad.
        mirror: (rows,) bool, the cuts to mirror; None for none.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> shifted(image, 1, torch.tensor([0]), torch.tensor([1]), torch.tensor([True])).tolist()
        [[[[0, 0], [2, 1]]]]
    """
    rows, channels, height, width = x.shape
    column = torch.arange(width, device=x.device).expand(rows, -1)
    if mirror is not None:
        column = torch.where(mirror[:, None], width - 1 - column, column)
    column = column + right[:, None]  # (rows, width)
    line = torch.arange(height, device=x.device) + down[:, None]  # (rows, height)
    padded = F.pad(x, (pad, pad, pad, pad))
    place = line[:, :, None] * (width + 2 * pad) + column[:, None, :]  # (rows, height, width)
    place = place.view(rows, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, place).view(x.shape)


def _numbers(value: float | Sequence[float]) -> list[float]:
    return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
