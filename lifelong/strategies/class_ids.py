"""Labels that name a class each: what methods that count, choose or measure by class need."""

from __future__ import annotations

from torch import Tensor

from lifelong.core.errors import InvalidBatch


def check_class_ids(y: Tensor, told: str) -> None:
    """Raise `InvalidBatch` unless each row has one class; its values are not looked at.

    Args:
        y: (rows,) integers.
        told: what they are needed for, and what to do.

    Example:
        >>> import torch
        >>> check_class_ids(torch.zeros(2, 1), "WA scales the outputs of classes: leave it out")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: y is torch.float32 of shape (2, 1), no class a row; WA \
scales the outputs of classes: leave it out
    """
    if y.ndim != 1 or y.is_floating_point():
        raise InvalidBatch(f"y is {y.dtype} of shape {tuple(y.shape)}, no class a row; {told}")
