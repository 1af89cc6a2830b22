"""Rows that do not look like the others: by the size of their features, or by their loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORM, LOSS = "norm", "loss"


class Outliers:
    """Tell which rows lie far above what rows have been like lately.

    For the logarithm of each row's norm, and for each row's loss before it is learned from, a
    moving mean and variance are kept:

        mean <- mean + rate * d,   variance <- (1 - rate) * (variance + rate * d**2),
        d = min(value, mean + deviations * sd) - mean

    A value above mean + deviations * sd is an outlier. It counts as that bound in the statistics,
    at a tenth of the rate: a burst moves them little, while a change that lasts becomes the new
    normal within about a hundred rows. So poison is kept out at first, and drift is not kept out
    for long; what remains is for the held-out rows of the gate to notice.

    Args:
        deviations: how many standard deviations above the mean are too many; 0 switches it off.
        rate: of the moving statistics, per row.
        warmup: rows before anything is called an outlier.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> found = Outliers(warmup=10)
        >>> _ = found.look(np.full(50, 1.0), np.linspace(0.1, 0.2, 50))
        >>> found.look(np.array([1.0, 1.0, 1e9]), np.array([0.1, 50.0, 0.1]))
        [None, 'loss', 'norm']
    """

    def __init__(self, deviations: float = 6.0, rate: float = 0.01, warmup: int = 200) -> None:
        if deviations < 0 or not 0 < rate < 1 or warmup < 1:
            raise ValueError(
                f"deviations {deviations}, rate {rate}, warmup {warmup}; deviations must be 0 or "
                "more, the rate between 0 and 1, the warmup 1 row or more"
            )
        self.deviations = deviations
        self.rate = rate
        self.warmup = warmup
        self.rows = 0
        self._moments = {NORM: [0.0, 0.0], LOSS: [0.0, 0.0]}

    def look(
        self, norms: NDArray[np.floating[Any]], losses: NDArray[np.floating[Any]]
    ) -> list[str | None]:
        """Say of each row, in order, why it is an outlier; None if it is not."""
        found = []
        for norm, loss in zip(norms.tolist(), losses.tolist(), strict=True):
            self.rows += 1
            high = [NORM] if self._high(NORM, math.log(norm + 1e-12)) else []
            high += [LOSS] if self._high(LOSS, loss) else []
            found.append(high[0] if high else None)
        return found

    def _high(self, name: str, value: float) -> bool:
        mean, variance = self._moments[name]
        # A class that is new has a high loss too: the spread is never taken to be less than this.
        spread = max(math.sqrt(variance), 0.5)
        bound = mean + self.deviations * spread
        high = self.deviations > 0 and self.rows > self.warmup and value > bound
        rate = self.rate / 10 if high else max(self.rate, 1 / self.rows)
        off = (min(value, bound) if self.rows > self.warmup else value) - mean
        self._moments[name] = [mean + rate * off, (1 - rate) * (variance + rate * off * off)]
        return high

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and moments."""
        return {"rows": self.rows, "norm": self._moments[NORM], "loss": self._moments[LOSS]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.rows = state["rows"]
        self._moments = {NORM: list(state["norm"]), LOSS: list(state["loss"])}
