"""Choosing a few rows that stand for many: herding, and the greedy k-center core-set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Select: TypeAlias = Callable[[Tensor, int], Tensor]
"""`select(features, count)`: which of the rows to keep, best first."""

AT_ONCE = 2048
"""Rows of which all products are made at once, up to 32 MB of them."""


def herding(features: Tensor, count: int) -> Tensor:
    """Order rows so that the mean of the first k is near the mean of all, for every k.

    p_k = argmin over rows not yet chosen of |mean - (f + f_p1 + ... + f_p(k-1)) / k|
    Welling 2009 (herding dynamical weights to learn), in the form of Rebuffi et al. 2017
    (iCaRL, arXiv:1611.07725), who normalise the features before; here they are taken as given.

    The distance is expanded, so that of each step only one sum over rows and its smallest value
    are left: v_k = |f|^2 + 2 f . (f_p1 + ...) - 2 k f . mean.

    Args:
        features: (rows, ...) of one class.
        count: how many rows to choose; all, if there are fewer.

    Returns:
        (count,) int64 on the CPU, the first to be kept longest. Of equal rows the first is chosen.

    Raises:
        ValueError: a negative count, or features that are not finite.

    Example:
        >>> herding(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3).tolist()
        [2, 1, 3]
    """
    rows, count = _checked(features, count)
    if not count:
        return torch.empty(0, dtype=torch.int64)
    pull = 2 * (rows @ rows.mean(0))
    value = (rows**2).sum(1) - pull
    # Products of all pairs pay off when about as many of them are used as are made.
    pairs = None
    if len(rows) <= AT_ONCE and 4 * count >= len(rows):
        pairs = 2 * (rows @ rows.T) - pull
    chosen = np.empty(count, dtype=np.int64)
    for k in range(count):
        best = chosen[k] = value.argmin()
        value += 2 * (rows @ rows[best]) - pull if pairs is None else pairs[best]
        value[best] = np.inf
    return torch.from_numpy(chosen)


def k_center(features: Tensor, count: int) -> Tensor:
    """Choose rows one by one, each the farthest from all that are chosen already.

    p_k = argmax over rows of min over j < k of |f - f_pj|
    Sener & Savarese 2018, arXiv:1708.00489 (algorithm 1, k-center greedy).

    They start from rows that are labelled already; here the first is the row next to the mean.

    Args:
        features: (rows, ...) of one class.
        count: how many rows to choose; all, if there are fewer.

    Returns:
        (count,) int64 on the CPU, in the order of choice. Of equal rows the first is chosen.

    Raises:
        ValueError: a negative count, or features that are not finite.

    Example:
        >>> k_center(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3).tolist()
        [2, 3, 0]
    """
    rows, count = _checked(features, count)
    if not count:
        return torch.empty(0, dtype=torch.int64)
    chosen = np.empty(count, dtype=np.int64)
    norms = (rows**2).sum(1)
    nearest = np.full(len(rows), np.inf)
    best = ((rows - rows.mean(0)) ** 2).sum(1).argmin()
    for k in range(count):
        chosen[k] = best
        apart = norms + norms[best] - 2 * (rows @ rows[best])
        np.minimum(nearest, apart.clip(min=0), out=nearest)
        nearest[chosen[: k + 1]] = -1  # below the distance of copies
        best = nearest.argmax()
    return torch.from_numpy(chosen)


SELECTIONS: Mapping[str, Select] = {"herding": herding, "k-center": k_center}
"""The ways to choose rows, by name."""


def _checked(features: Tensor, count: int) -> tuple[NDArray[np.float64], int]:
    """Turn features into a matrix of doubles, (rows, features)."""
    if count < 0:
        raise ValueError(f"cannot choose {count} rows; ask for 0 or more")
    rows = features.detach().to("cpu", torch.float64).flatten(1).numpy()
    if not np.isfinite(rows).all():
        raise ValueError("features are NaN or infinite; lower the learning rate, or drop such rows")
    return rows, min(count, len(rows))
