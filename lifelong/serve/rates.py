"""Events per second, from counts that are taken once a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

WINDOW = 60.0
KEPT = 300
STEP = 5


class Rates:
    """How fast counts grow: over the last minute, and along the last five.

    A count that falls, as when events are erased, adds nothing.

    Args:
        pace: seconds that never go back.

    Example:
        >>> rates = Rates(iter([0.0, 1.0, 2.0]).__next__)
        >>> for labels in (10, 14, 16):
        ...     rates.add({"label": labels})
        >>> rates.shown()["per_second"], rates.shown()["totals"]
        ({'label': 3.0}, {'label': 16})
    """

    def __init__(self, pace: Callable[[], float]) -> None:
        self.pace = pace
        self.totals: dict[str, int] = {}
        self._grown: deque[tuple[float, dict[str, int]]] = deque(maxlen=KEPT + 1)

    def add(self, counts: Mapping[str, int]) -> None:
        """Take note of how many there are now of each kind."""
        before = self.totals or counts
        grown = {kind: max(n - before.get(kind, 0), 0) for kind, n in counts.items()}
        self._grown.append((self.pace(), grown))
        self.totals = dict(counts)

    def shown(self) -> dict[str, Any]:
        """Return totals, events per second, the seconds these are of, and points along the way.

        A point is {"ago": seconds from its end to the newest count, "per_second": by kind}.
        """
        samples = list(self._grown)
        if len(samples) < 2:
            return {"totals": self.totals, "per_second": {}, "seconds": 0.0, "points": []}
        end = samples[-1][0]
        minute = [sample for sample in samples if end - sample[0] <= WINDOW]
        points = []
        # Counted from the newest back, in steps of five samples; a shorter first one is left out.
        for stop in range(len(samples) - 1, STEP - 1, -STEP):
            part = samples[stop - STEP : stop + 1]
            points.append({"ago": end - part[-1][0], "per_second": _speed(part)})
        return {
            "totals": self.totals,
            "per_second": _speed(minute),
            "seconds": end - minute[0][0],
            "points": points[::-1],
        }


def _speed(samples: list[tuple[float, dict[str, int]]]) -> dict[str, float]:
    """Growth per second from the first sample's time to the last's."""
    seconds = samples[-1][0] - samples[0][0]
    if seconds <= 0:
        return {}
    kinds = samples[-1][1]
    return {k: sum(grown.get(k, 0) for _, grown in samples[1:]) / seconds for k in kinds}
