"""The gate's reasons in the words of the demo, whose service knows no tasks."""

from __future__ import annotations

import re

_AHEAD = re.compile(r"shadow traffic: the candidate is ahead by (\S+) on (\d+) rows")
_KEPT = re.compile(
    r"task \S+: the champion has (\S+) and the candidate (\S+) on (\d+) rows; "
    r"the drop is within .*? and may be (\d\.\d+)"
)


def why(reason: str) -> str:
    r"""Say why a version was promoted or refused: what it gained, and what it lost.

    Args:
        reason: as the gate gives it.

    Example:
        >>> kept = "task 0: the champion has 1.0000 and the candidate 0.9762 on 42 rows; "
        >>> kept += "the drop is within -0.01 to +0.08 and may be 0.1000; "
        >>> kept += "shadow traffic: the candidate is ahead by +0.1500 on 212 rows, within"
        >>> print(why(kept).replace("; ", ";\n"))
        +15.0 points on 212 rows of traffic;
        97.6 % of 42 rows kept apart after 100.0 %, 10 points may be lost
        >>> why("first version: 0.9 on 200 rows; the floor is 0.6")
        'first version: 0.9 on 200 rows'
    """
    parts = []
    if ahead := _AHEAD.search(reason):
        parts.append(f"{100 * float(ahead[1]):+.1f} points on {ahead[2]} rows of traffic")
    found = [[float(kept[i]) for i in (1, 2, 3, 4)] for kept in _KEPT.finditer(reason)]
    if found:  # of several, the one that loses most
        champion, candidate, rows, may = min(found, key=lambda one: one[1] - one[0])
        parts.append(
            f"{100 * candidate:.1f} % of {rows:.0f} rows kept apart after {100 * champion:.1f} %"
            + (f", {100 * may:.0f} points may be lost" if candidate < champion else "")
        )
    return "; ".join(parts) or reason.partition(";")[0]
