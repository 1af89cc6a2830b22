"""Images stored as JPEG, each in equally many bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.core.errors import InvalidBatch, MissingExtra
from lifelong.memory.codecs import Codec

QUALITIES: Sequence[int] = (95, 85, 75, 60, 45, 30, 20, 10, 5)
"""Tried from the first on until an image fits."""

FRONT = 3
"""Bytes before an image: its quality, and its length in two."""

SCAN, END = b"\xff\xda", b"\xff\xd9"
"""Markers before the coded pixels, and at the end of a file."""


class Jpeg(Codec):
    """Store each image as JPEG, in the best quality that fits into a share of its bytes.

    What a JPEG file begins with depends on its quality and size alone. These 600 bytes or so are
    left out, and put back before it is read. Images are coded one by one, which takes about
    0.1 ms for 32 x 32 pixels; only rows that stay are coded, and only those drawn are read.

    Args:
        share: of the bytes of the raw image.

    Raises:
        ValueError: a share outside of 0 to 1.
        MissingExtra: pillow is not installed (`lifelong[data]`).

    Example:
        >>> image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
        >>> codec = Jpeg(share=0.5)
        >>> stored = codec.encode(image)
        >>> stored.shape, int((codec.decode(stored, image[:0]).int() - image.int()).abs().max()) < 9
        (torch.Size([1, 128]), True)
    """

    name = "jpeg"
    wants = "it is for images of bytes, torch.uint8 (rows, 1 or 3, height, width)"

    def __init__(self, share: float = 0.25) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must be more than 0, up to 1")
        self.share = share
        _pillow()

    def fits(self, column: Tensor) -> bool:
        """Tell whether rows are images of bytes: (rows, 1 or 3, height, width)."""
        return column.dtype == torch.uint8 and column.ndim == 4 and column.shape[1] in (1, 3)

    def encode(self, column: Tensor) -> Tensor:
        """Code each image, (rows, bytes) uint8: quality, length, the image, zeros."""
        size = int(self.share * prod(column.shape[1:]))
        stored = np.zeros((len(column), size), dtype=np.uint8)
        for row, image in zip(stored, column.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
            quality, coded = _fitting(image, size - FRONT)
            row[0] = quality
            row[1], row[2] = divmod(len(coded), 256)
            row[FRONT : FRONT + len(coded)] = np.frombuffer(coded, dtype=np.uint8)
        return torch.from_numpy(stored)

    def decode(self, stored: Tensor, like: Tensor) -> Tensor:
        """Read each image."""
        channels, height, width = like.shape[1:]
        images = np.empty((len(stored), height, width, channels), dtype=np.uint8)
        for image, row in zip(images, stored.cpu().numpy(), strict=True):
            coded = row[FRONT : FRONT + 256 * int(row[1]) + int(row[2])].tobytes()
            start = _start(int(row[0]), image.shape)
            opened = _pillow().open(BytesIO(start + coded))
            image[:] = np.asarray(opened).reshape(image.shape)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(stored.device)


def _fitting(image: NDArray[np.uint8], room: int) -> tuple[int, bytes]:
    """Code an image in the best quality that fits; what is given back lacks the file's start."""
    coded = b""
    for quality in QUALITIES:
        coded = _coded(image, quality, part=2)
        coded = coded[coded.index(SCAN) :]
        if len(coded) <= min(room, 65535):
            return quality, coded
    raise InvalidBatch(
        f"an image of shape {image.shape} takes {len(coded)} bytes as the poorest JPEG, more than "
        f"the {room} there are; give Jpeg(share=...) a greater share, or leave out store"
    )


@cache
def _start(quality: int, shape: tuple[int, ...]) -> bytes:
    """Make what a file begins with: its tables, and its size."""
    image = np.zeros(shape, dtype=np.uint8)
    sized = _coded(image, quality, part=2)
    return _coded(image, quality, part=1).removesuffix(END) + sized[2 : sized.index(SCAN)]


def _coded(image: NDArray[np.uint8], quality: int, part: int) -> bytes:
    """Code an image, (height, width, channels): its tables alone (1), or all but them (2)."""
    buffer = BytesIO()
    made = _pillow().fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    made.save(buffer, "JPEG", quality=quality, streamtype=part)
    return buffer.getvalue()


@cache
def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "data", error) from error
    return Image
