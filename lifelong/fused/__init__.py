"""What quadratic strategies do to every weight at every step, in one pass over memory.

A step of a small model on a CPU waits for memory, not for arithmetic. Where numba is installed
(`pip install 'lifelong[fast]'`) and torch uses one thread, weights in float32 on the CPU are
worked on in one compiled loop; everywhere else by torch, with the same result.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 50_000
"""Weights below which the compiled loops do not pay."""

ENOUGH = 1_000_000_000
"""Weights to be worked on, all steps together, before the loops are loaded: that takes 0.6 s, and
saves about 0.6 ns a weight, so that a short run is over before it would pay."""


def pull(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importance: Sequence[Tensor],
    by: float,
    kept: Sequence[Tensor] = (),
) -> bool | None:
    """gradient += by * (weight - anchor) * importance, in place.

    Args:
        gradients: are changed; their shapes are everything's.
        weights: where they are now.
        anchors: where they are held.
        importance: of each weight.
        by: a factor.
        kept: tensors that take the gradients as they were; none if that is not wanted.

    Returns:
        Whether every gradient is finite now; None where that was not looked at.

    Example:
        >>> gradient, one = torch.zeros(2), torch.ones(2)
        >>> pull([gradient], [3 * one], [one], [one], 0.5)
        >>> gradient
        tensor([1., 1.])
    """
    if kernels := _kernels(gradients, weights, anchors, importance, kept):
        if kept:
            table = _table(kept, gradients, weights, anchors, importance)
            return not kernels.keep_and_pull(table, np.float32(by))
        return not kernels.pull(_table(gradients, weights, anchors, importance), np.float32(by))
    if kept:
        torch._foreach_copy_(list(kept), list(gradients))
    moved = torch._foreach_sub(list(weights), list(anchors))
    torch._foreach_addcmul_(list(gradients), list(moved), list(importance), value=by)
    return None


def walk(
    path: Sequence[Tensor],
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    latest: Sequence[Tensor],
) -> None:
    """path -= (weight - latest) * gradient, then latest = weight, in place.

    Example:
        >>> path, before = torch.zeros(2), torch.zeros(2)
        >>> walk([path], [torch.ones(2)], [torch.full((2,), 3.0)], [before])
        >>> path, before
        (tensor([-3., -3.]), tensor([3., 3.]))
    """
    if kernels := _kernels(path, gradients, weights, latest):
        kernels.walk(_table(path, gradients, weights, latest))
        return
    steps = torch._foreach_sub(list(weights), list(latest))
    torch._foreach_addcmul_(list(path), list(steps), list(gradients), value=-1.0)
    torch._foreach_copy_(list(latest), list(weights))


def _kernels(*columns: Sequence[Tensor]) -> ModuleType | None:
    """Find the compiled loops, if they can work on these tensors and are worth it."""
    if sum(tensor.numel() for tensor in columns[0]) < SMALL or torch.get_num_threads() > 1:
        return None
    shapes = [tensor.shape for tensor in columns[0]]
    for column in filter(None, columns):
        # The loops see addresses alone: what differs in shape is for torch, which says so.
        if [tensor.shape for tensor in column] != shapes:
            return None
        for tensor in column:
            if tensor.dtype is not torch.float32 or not tensor.is_cpu or not tensor.is_contiguous():
                return None
    return _LOOPS.after(sum(tensor.numel() for tensor in columns[0]))


def load() -> bool:
    """Load the compiled loops now, if numba is there: where it is known that a run will be long.

    Example:
        >>> load() is (importlib.util.find_spec("numba") is not None)
        True
    """
    _LOOPS.worked = ENOUGH
    return _LOOPS.after(0) is not None


class _Loops:
    """The compiled loops, loaded once, and not before as much work was done as pays for that."""

    def __init__(self) -> None:
        self.worked = 0

    def after(self, weights: int) -> ModuleType | None:
        """Count the weights that are to be worked on; give the loops if there have been enough."""
        self.worked += weights
        return self.loaded if self.worked >= ENOUGH else None

    @functools.cached_property
    def loaded(self) -> ModuleType | None:
        if importlib.util.find_spec("numba") is None:
            return None
        from lifelong.fused import kernels

        return kernels


_LOOPS = _Loops()


def _table(*columns: Sequence[Tensor]) -> NDArray[np.int64]:
    rows = [[*(t.data_ptr() for t in row), row[0].numel()] for row in zip(*columns, strict=True)]
    return np.array(rows, dtype=np.int64)
