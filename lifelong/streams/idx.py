"""The IDX format of MNIST and its kin."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from lifelong.core.errors import DatasetError

_LARGEST = 2**32  # bytes; far above any data set in this format, far below a filled memory


def read_idx(path: str | Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in `.gz`.

    Two zero bytes, the type 8, the number of dimensions; the size of each dimension as a
    big-endian uint32; the values, row-major. LeCun, Cortes & Burges, "The MNIST database of
    handwritten digits". Nothing is read but what the header announces, and all of that.

    Args:
        path: the file.
        dimensions: how many there must be: 1 for labels, 3 for images.

    Raises:
        DatasetError: the file is missing, damaged, of another kind, too short or too long.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels"
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        ...     read_idx(path, dimensions=1)
        tensor([7, 8, 9], dtype=torch.uint8)
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            zipped = path.suffix == ".gz"
            return _read(path, gzip.GzipFile(fileobj=file) if zipped else file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read ({error}); fetch it again") from error


def _read(path: Path, file: BinaryIO | gzip.GzipFile, dimensions: int) -> Tensor:
    magic = file.read(4)
    if magic != bytes([0, 0, 8, dimensions]):
        raise DatasetError(
            f"{path} starts with {magic.hex(' ') or 'nothing'}, not 00 00 08 0{dimensions}: "
            f"it is no IDX file of bytes in {dimensions} dimensions"
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DatasetError(f"{path} ends within its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", header)
    size = math.prod(shape)
    if not 0 < size <= _LARGEST:
        raise DatasetError(f"{path} announces the shape {shape}, {size} bytes; it is damaged")
    values = bytearray(file.read(size + 1))
    if len(values) != size:
        found = f"only {len(values)}" if len(values) < size else "more"
        raise DatasetError(f"{path} announces {size} values and has {found}; fetch it again")
    return torch.frombuffer(values, dtype=torch.uint8).view(shape)
