"""What a replay comes to, in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifelong.serve.noting import NOT_SERVED, Stretch

PARTS = 40
"""Into which a stretch is cut, to show accuracy over time."""

Row = Mapping[str, float]
"""The accuracy on the anchors of each task or period, by its name."""


def answered(
    offsets: Sequence[int], right: NDArray[np.uint8], served: NDArray[np.uint8], stretch: Stretch
) -> dict[str, Any]:
    """Bring together how rows were answered, and how they were by what was served.

    `difference` is the mean over rows that were predictions of (right here) - (right as served),
    with half the width of its 95 % interval: 1.96 standard errors of paired rows, taken as
    independent of each other.

    Args:
        offsets: of the rows.
        right: 1 for each that was answered rightly, 0 for the others.
        served: the same for what was served, `NOT_SERVED` where nobody had asked.
        stretch: that was measured.
    """
    asked = served != NOT_SERVED
    differences = right[asked].astype(np.float64) - served[asked]
    edges = np.linspace(stretch.first, stretch.last + 1, PARTS + 1)
    place = np.clip(np.searchsorted(edges, np.array(offsets), side="right") - 1, 0, PARTS - 1)
    parts = [place == part for part in range(PARTS)]
    return {
        "rows": len(right),
        "accuracy": mean(right),
        "predictions": int(asked.sum()),
        "on_predictions": mean(right[asked]),
        "served": mean(served[asked]),
        "difference": mean(differences),
        "half": half(differences),
        "over_time": [
            {
                "from": math.ceil(edges[i]),
                "rows": int(part.sum()),
                "accuracy": mean(right[part]),
                "served": mean(served[part & asked]),
            }
            for i, part in enumerate(parts)
        ],
    }


def mean(values: NDArray[Any]) -> float | None:
    """Return the mean; None of nothing.

    Example:
        >>> mean(np.array([1, 0])), mean(np.array([]))
        (0.5, None)
    """
    return float(values.mean()) if len(values) else None


def half(values: NDArray[np.float64]) -> float | None:
    """Return half the width of the 95 % interval of a mean; None below two values.

    Example:
        >>> round(half(np.array([0.0, 1.0] * 50)), 3)
        0.098
    """
    return float(1.96 * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def average(rows: Sequence[Row]) -> float | None:
    """Return the mean accuracy on all anchors at the end.

    Example:
        >>> average([{"0": 1.0}, {"0": 0.5, "1": 1.0}])
        0.75
    """
    return mean(np.array(list(rows[-1].values()))) if rows else None


def forgetting(rows: Sequence[Row]) -> float | None:
    """Return how far the anchors of earlier periods have fallen from the best they ever were.

    F = mean over j of (max over i < T of R[i][j] - R[T][j]), over the tasks or periods j that were
    measured before the end T. As in Chaudhry et al. 2018, arXiv:1801.10112, but for R[i][j] of
    periods that had not begun, which a stream does not have.

    Example:
        >>> forgetting([{"0": 1.0}, {"0": 0.5, "1": 1.0}])
        0.5
    """
    falls = []
    for name, now in rows[-1].items() if rows else ():
        before = [row[name] for row in rows[:-1] if name in row]
        falls += [max(before) - now] if before else []
    return mean(np.array(falls))
