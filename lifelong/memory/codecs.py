"""Rows made smaller to be stored, and made whole again when they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch


class Codec(ABC):
    """Store each row of a column in fewer bytes, always equally many; a subclass says how.

    A codec has settings but no state: a row is all that it takes to read it.
    """

    name: ClassVar[str]
    optional: ClassVar[bool] = False
    """Whether inputs that it does not fit are stored as they come, instead of being refused."""
    wants: ClassVar[str] = ""
    """What it is for, in words, for who is refused; "" to say nothing."""

    @property
    def settings(self) -> dict[str, int | float | str]:
        """What decides how rows are read, by name; a state with others is refused."""
        return {k: v for k, v in vars(self).items() if isinstance(v, int | float | str)}

    @abstractmethod
    def fits(self, column: Tensor) -> bool:
        """Tell whether such a column, (rows, ...), can be stored so."""

    def check(self, column: Tensor) -> None:
        """Raise `InvalidBatch` for values that `encode` would refuse, if a glance can tell.

        A memory looks before a step, at rows of which it may keep none, so this must cost little.
        """
        del column

    @abstractmethod
    def encode(self, column: Tensor) -> Tensor:
        """Make rows smaller, (rows, ...); raise `InvalidBatch` for values that cannot be stored."""

    @abstractmethod
    def decode(self, stored: Tensor, like: Tensor) -> Tensor:
        """Make rows whole again, with the element type and the row shape of `like`, (0, ...)."""


class Half(Codec):
    """Store floating-point numbers in 16 bits: three decimal digits, up to 65504.

    Example:
        >>> Half().encode(torch.tensor([[0.1]])).element_size()
        2
    """

    name = "fp16"
    wants = "it is for floats of more than 16 bits; bytes are one byte already"

    def fits(self, column: Tensor) -> bool:
        """Tell whether the numbers are longer than 16 bits."""
        return column.is_floating_point() and column.element_size() > 2

    def check(self, column: Tensor) -> None:
        """Raise `InvalidBatch` unless all values are finite in 16 bits."""
        self.encode(column)

    def encode(self, column: Tensor) -> Tensor:
        """Round to 16 bits."""
        stored = column.half()
        if not stored.isfinite().all():
            raise InvalidBatch(
                f"values up to {float(column.abs().max()):g} do not fit into fp16, which ends at "
                "65504; scale the inputs, or store them as 'int8'"
            )
        return stored

    def decode(self, stored: Tensor, like: Tensor) -> Tensor:
        """Widen again."""
        return stored.to(like.dtype)


class Auto(Half):
    """Store floating-point numbers in 16 bits, as `Half`, and all else as it comes.

    So bytes, whole numbers, and floating-point numbers of 16 bits stay what they are. Pixels from 0
    to 1 take half of these bytes as `Bytes`, features of about one size as `Int8`: choose them
    where that is known.

    Example:
        >>> Auto().fits(torch.zeros(2, 3)), Auto().fits(torch.zeros(2, 3, dtype=torch.uint8))
        (True, False)
    """

    name = "auto"
    optional = True


class Int8(Codec):
    """Store each row as whole numbers of -127 to 127, with a scale of its own.

    x is about scale * round(x / scale), with scale = max |x| / 127; off by scale / 2 at most.

    Example:
        >>> row = torch.tensor([[1.0, -0.5, 0.0]])
        >>> Int8().decode(Int8().encode(row), row[:0])
        tensor([[ 1.0000, -0.5039,  0.0000]])
    """

    name = "int8"
    wants = "it is for rows of several floats; bytes are one byte already"

    def fits(self, column: Tensor) -> bool:
        """Tell whether there are numbers with a fraction, enough to pay for the scale."""
        return column.is_floating_point() and column.ndim > 1

    def check(self, column: Tensor) -> None:
        """Raise `InvalidBatch` unless all values are finite."""
        if not column.float().isfinite().all():
            raise InvalidBatch("values are NaN or infinite, and cannot be stored; drop those rows")

    def encode(self, column: Tensor) -> Tensor:
        """Make (rows, values + 4) bytes: the numbers, and the scale as a float of 4 bytes."""
        self.check(column)
        flat = column.detach().flatten(1).float()
        scale = flat.abs().amax(1, keepdim=True) / 127  # (rows, 1)
        whole = (flat / scale.clamp(min=1e-30)).round().to(torch.int8)
        return torch.cat((whole, scale.view(torch.int8)), 1)

    def decode(self, stored: Tensor, like: Tensor) -> Tensor:
        """Multiply by the scale."""
        scale = stored[:, -4:].clone(memory_format=torch.contiguous_format).view(torch.float32)
        return (stored[:, :-4] * scale).to(like.dtype).view(-1, *like.shape[1:])


class Bytes(Codec):
    """Store floating-point numbers of a known range, such as pixels, in a byte each.

    x is about low + (high - low) * round(255 * (x - low) / (high - low)) / 255; multiples of
    1 / 255 from 0 to 1 come back as they were.

    Args:
        low: the least value.
        high: the greatest.

    Raises:
        ValueError: the range is empty.

    Example:
        >>> Bytes().encode(torch.tensor([[0.0, 0.5, 1.0]])).tolist()
        [[0, 128, 255]]
    """

    name = "uint8"
    wants = "it is for floats of a known range; bytes are one byte already"

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"a range from {low} to {high}; low must be less than high")
        self.low, self.high = low, high

    def fits(self, column: Tensor) -> bool:
        """Tell whether the numbers have a fraction."""
        return column.is_floating_point()

    def check(self, column: Tensor) -> None:
        """Raise `InvalidBatch` unless all values are in the range; NaN is not."""
        if not ((column >= self.low) & (column <= self.high)).all():
            raise InvalidBatch(
                f"values from {float(column.min()):g} to {float(column.max()):g} are outside of "
                f"{self.low:g} to {self.high:g}, the range stored in bytes; give Bytes(low, high) "
                "theirs, or store them as 'int8'"
            )

    def encode(self, column: Tensor) -> Tensor:
        """Round to 256 levels."""
        self.check(column)
        part = (column.detach() - self.low) / (self.high - self.low)
        return (part * 255).round().to(torch.uint8)

    def decode(self, stored: Tensor, like: Tensor) -> Tensor:
        """Stretch to the range again."""
        return self.low + stored.to(like.dtype) / 255 * (self.high - self.low)
