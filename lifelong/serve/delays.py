"""How long it takes from a label to weights that have learned it and are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lifelong.serve.progress import Learned


def delays(
    learned: Sequence[Learned], promotions: Sequence[tuple[float, int]], now: float
) -> dict[str, Any]:
    """Compute the delay of rows whose labels have come to be served, and who still waits.

    A row's delay runs from the time of the event that made it whole (its label, or its prediction
    if that came later) to the moment when the api first served a version that has learned it: the
    first promotion, or rollback, to that version or a later one. A version's rows are counted, by
    up to 32 of them that stand for all.

    Args:
        learned: rows by the version that learned them first.
        promotions: (time, version), oldest first.
        now: seconds since 1970, as all times.

    Returns:
        {"p50", "p99": seconds or None, "rows": that these are of, "waiting": rows in versions that
        are not served, "oldest": seconds that the oldest of them waits, or None}.

    Example:
        >>> rows = [Learned(2, 1, 2, [10.0, 11.0]), Learned(3, 3, 1, [12.0])]
        >>> found = delays(rows, [(14.0, 2)], now=20.0)
        >>> found["p50"], found["p99"], found["rows"], found["waiting"], found["oldest"]
        (3.0, 4.0, 2, 1, 8.0)
    """
    weighted: list[tuple[float, float]] = []
    rows = waiting = 0
    oldest: float | None = None
    for one in learned:
        if not one.times:
            continue
        # A rollback to an earlier version is no promotion of what a later one has learned.
        at = min((time for time, version in promotions if version >= one.version), default=None)
        if at is None:
            waiting += one.rows
            oldest = max(oldest or 0.0, now - one.times[0])
            continue
        rows += one.rows
        weighted += [(max(at - time, 0.0), one.rows / len(one.times)) for time in one.times]
    weighted.sort()
    p50, p99 = (_quantile(weighted, share) for share in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "rows": rows, "waiting": waiting, "oldest": oldest}


def _quantile(weighted: Sequence[tuple[float, float]], share: float) -> float | None:
    """The smallest value that at least this share of the weight does not exceed."""
    needed = share * sum(weight for _, weight in weighted)
    passed = 0.0
    for value, weight in weighted:
        passed += weight
        if passed >= needed - 1e-9:
            return value
    return None
