"""The least value of a quadratic function over variables that are 0 or more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def nonnegative_minimum(square: Vector, slope: Vector, tolerance: float = 1e-12) -> Vector:
    """Find the v of 0 or more at which v' square v / 2 + slope' v is least.

    At the minimum the gradient is 0 where v is positive and 0 or more where v is 0. An active-set
    method after Lawson & Hanson 1974, chapter 23, on the matrix of the normal equations: one
    variable after the other is set free, and those that would turn negative are bound again. A
    variable that does not lower the value is left where it is, so that it ends also where columns
    depend on each other.

    Args:
        square: (n, n) symmetric, with no negative eigenvalue; may be singular.
        slope: (n,) in the span of the columns of `square`, or the value has no minimum.
        tolerance: how far below 0 the gradient may be, as a share of the largest slope.

    Returns:
        (n,) the minimum; all NaN where what was given is not finite.

    Example:
        >>> nonnegative_minimum(np.eye(2), np.array([-3.0, 2.0])).tolist()
        [3.0, 0.0]
    """
    count = len(slope)
    if not (np.isfinite(square).all() and np.isfinite(slope).all()):
        return np.full(count, np.nan)
    found, free = np.zeros(count), np.zeros(count, dtype=bool)
    bound = np.zeros(count, dtype=bool)  # what has been tried and lowers nothing
    least, value = tolerance * float(np.abs(slope).max(initial=0.0)), 0.0
    while True:
        downhill = np.where(free | bound, -np.inf, -(square @ found + slope))
        chosen = int(downhill.argmax()) if count else 0
        if not count or downhill[chosen] <= least:
            return found
        tried, moved = _freed(square, slope, found, free, chosen)
        lower = float(tried @ (square @ tried) / 2 + slope @ tried)
        if lower < value:
            found, free, value = tried, moved, lower
            bound[:] = False
        else:
            bound[chosen] = True


def _freed(
    square: Vector, slope: Vector, found: Vector, free: NDArray[np.bool_], chosen: int
) -> tuple[Vector, NDArray[np.bool_]]:
    """Set one more variable free and go to the minimum over the free ones, binding what blocks."""
    free, found = free.copy(), found.copy()
    free[chosen] = True
    while free.any():
        best = np.zeros_like(found)
        best[free] = np.linalg.lstsq(square[np.ix_(free, free)], -slope[free], rcond=1e-13)[0]
        below = free & (best <= 0)
        if not below.any():
            return best, free
        # As far towards the minimum as all stay at 0 or above; what arrives at 0 stays there.
        fall = found[below] - best[below]
        share = np.divide(found[below], fall, out=np.zeros_like(fall), where=fall > 0)
        at = int(np.flatnonzero(below)[share.argmin()])
        found += share.min() * (best - found)
        free[at] = False
        free &= (found > 0) | (best > 0)
        found[~free] = 0.0
    return found, free
