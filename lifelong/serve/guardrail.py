"""An alarm that watches what a promoted version gets right, for as long as it serves."""

from __future__ import annotations

from collections import deque
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lifelong.core.errors import StateMismatch
from lifelong.serve.sequential import PairedTest

_BETS = np.array([0.5, 0.3, 0.18, 0.1, 0.06, 0.03])  # shares of the capital
_WINDOW = 100


class Guardrail:
    """Say when the mean has fallen below the reference by more than the tolerance.

    A gambler bets on every row that the mean is below m = reference - tolerance; as long as it is
    not, capital does not grow. One starts at every row, since the fall may come at any time:

        capital_t = sum over starts j of weight_j * mean over bets b of
                    product over rows i = j ... t of (1 - b + b (1 - x_i) / (1 - m))

    Half of the weight starts with the first row, as a bad version is mostly bad at once; the rest
    is 1/log2(j + 1) - 1/log2(j + 2) for row j. Weights sum to 1, so the capital ever reaches
    1/alpha with probability alpha at most, over any number of rows (Ville's inequality; betting
    as in Waudby-Smith & Ramdas 2024, arXiv:2010.09686; a weighted sum of such capitals over starts
    is one). One number per bet is kept. A breach stays until a new guardrail is made.

    In 1000 runs a fall from 0.90 to 0.70 is found after a median of 27 rows if it comes at once
    (95 %: 82 rows), 102 (181) after 1000 good rows and 120 (218) after 5000; 10000 rows at 0.88,
    the worst that is allowed, raise an alarm in 4.1 % (`benchmarks/gate.py`). Rows that go wrong
    together, as those of one user may, are not covered: mix users before they are added.

    Args:
        reference: the mean to hold, such as the previous champion's rate. It is taken as exact;
            `Guardrail.after` allows for its being measured.
        tolerance: how far below the mean may stay for ever, above 0.
        alpha: the probability of a false alarm, over all time.

    Raises:
        ValueError: an argument or a row is out of its range.

    Example:
        >>> guard = Guardrail(reference=0.9)
        >>> guard.add(np.ones(50))
        >>> guard.breached
        False
        >>> guard.add(np.zeros(20))
        >>> guard.breached, guard.report["action"], guard.report["breached_at"]
        (True, 'rollback', 58)
    """

    def __init__(self, reference: float, tolerance: float = 0.02, alpha: float = 0.05) -> None:
        if not 0.0 < tolerance < reference <= 1.0:
            raise ValueError(
                f"reference is {reference!r} and tolerance {tolerance!r}; the reference is at most "
                "1, and the tolerance above 0 and below the reference"
            )
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha is {alpha!r}; it lies between 0 and 1, such as 0.05")
        self.reference = float(reference)
        self.tolerance = float(tolerance)
        self.alpha = float(alpha)
        self.n = 0
        self.breached_at: int | None = None
        self._total = 0.0
        self._capital = [0.0] * len(_BETS)
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    @classmethod
    def above(cls, floor: float, alpha: float = 0.05) -> Guardrail:
        """Return a guardrail that is breached when the mean is below a floor, whatever the reason.

        >>> guard = Guardrail.above(0.7)
        >>> guard.add([1.0, 0.0] * 60)
        >>> guard.breached
        True
        """
        if not 0.0 < floor < 1.0:
            raise ValueError(f"floor is {floor!r}; it is a rate between 0 and 1, such as 0.7")
        room = (1.0 - floor) / 2
        return cls(floor + room, room, alpha)

    @classmethod
    def after(
        cls, correct: int, rows: int, tolerance: float = 0.02, alpha: float = 0.05
    ) -> Guardrail:
        """Return a guardrail whose reference was measured: `correct` of `rows` rows.

        The reference is a lower bound of the rate at alpha/2, and the alarm works at alpha/2; so
        a version as good as the one measured raises a false alarm with probability alpha at most.

        >>> guard = Guardrail.after(correct=1800, rows=2000)
        >>> round(guard.reference, 3), guard.alpha
        (0.876, 0.025)
        """
        return cls(cls.measured(correct, rows, alpha), tolerance, alpha / 2)

    @staticmethod
    def measured(correct: int, rows: int, alpha: float) -> float:
        """Return the reference that `after` takes: a lower bound of the rate at alpha/2."""
        if not 0 <= correct <= rows or rows < 1:
            raise ValueError(f"{correct} correct of {rows} rows; there is at least 1 row")
        # Rates have twice the room as differences: 1 for correct and -1 for wrong.
        measured = PairedTest.counted(rows, worse=rows - correct, better=correct)
        return (1.0 + measured.lower(alpha / 2)) / 2

    def add(self, correct: ArrayLike) -> None:
        """Add rows in their order, (rows,): true or false, or scores from 0 to 1."""
        rows = _scores(correct)
        if self.breached_at is None and len(rows):
            self._watch(1.0 - rows)
        self.n += len(rows)
        for score in rows.tolist():
            self._total += score
            self._recent.append(score)

    def _watch(self, losses: NDArray[np.float64]) -> None:
        count = np.arange(self.n + 1, self.n + len(losses) + 1, dtype=np.float64)
        weights = 0.5 * (1.0 / np.log2(count + 1.0) - 1.0 / np.log2(count + 2.0))
        if self.n == 0:
            weights[0] += 0.5
        allowed = 1.0 - (self.reference - self.tolerance)
        growth = 1.0 + np.multiply.outer(losses / allowed - 1.0, _BETS)  # (rows, bets)
        enough = len(_BETS) / self.alpha
        # Row by row, so that the capital rounds alike however rows were cut into batches. Plain
        # numbers are faster here than arrays of six.
        capital = self._capital
        pairs = zip(weights.tolist(), growth.tolist(), strict=True)
        for row, (weight, factors) in enumerate(pairs, self.n + 1):
            capital = [(c + weight) * f for c, f in zip(capital, factors, strict=True)]
            if sum(capital) >= enough:
                self.breached_at = row
                break
        self._capital = capital

    @property
    def breached(self) -> bool:
        """Whether the mean has fallen: roll back."""
        return self.breached_at is not None

    @property
    def report(self) -> dict[str, Any]:
        """What was seen and what to do, as JSON values."""
        recent = sum(self._recent) / len(self._recent) if self._recent else None
        bound = f"{self.reference:.4f} - {self.tolerance:.4f}"
        if self.breached:
            reason = (
                f"after {self.breached_at} rows the mean was below {bound} (error probability "
                f"{self.alpha:g} over all time)"
            )
        else:
            reason = f"{self.n} rows give no proof that the mean is below {bound}"
        return {
            "action": "rollback" if self.breached else "keep",
            "reason": reason,
            "rows": self.n,
            "mean": self._total / self.n if self.n else None,
            "recent_mean": recent,
            "recent_rows": len(self._recent),
            "reference": self.reference,
            "tolerance": self.tolerance,
            "alpha": self.alpha,
            "breached_at": self.breached_at,
            "capital": sum(self._capital) / len(_BETS),
            "capital_needed": 1.0 / self.alpha,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "reference": self.reference,
            "tolerance": self.tolerance,
            "alpha": self.alpha,
            "n": self.n,
            "total": self._total,
            "breached_at": self.breached_at,
            "capital": list(self._capital),
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another guardrail stood, with its reference, tolerance and alpha.

        Raises:
            StateMismatch: the state is not one of this class.
        """
        if set(state) != set(self.state_dict()):
            expected = sorted(self.state_dict())
            raise StateMismatch(f"the state has {sorted(state)}; it needs {expected}")
        try:
            fresh = Guardrail(state["reference"], state["tolerance"], state["alpha"])
            numbers = [*state["capital"], *state["recent"], state["total"]]
            at = state["n"] if state["breached_at"] is None else state["breached_at"]
            fits = (
                len(state["capital"]) == len(_BETS)
                and len(state["recent"]) == min(state["n"], _WINDOW)
                and type(at) is type(state["n"]) is int
                and 0 <= at <= state["n"]
                and all(type(x) in (int, float) and isfinite(x) and x >= 0 for x in numbers)
            )
        except (TypeError, ValueError) as error:
            raise StateMismatch(f"the state is no guardrail's: {error}") from error
        if not fits:
            raise StateMismatch(f"the state's numbers are no guardrail's after n={state['n']!r}")
        self.reference, self.tolerance = fresh.reference, fresh.tolerance
        self.alpha = fresh.alpha
        self.n, self.breached_at = state["n"], state["breached_at"]
        self._total = float(state["total"])
        self._capital = [float(x) for x in state["capital"]]
        self._recent = deque(map(float, state["recent"]), maxlen=_WINDOW)


def _scores(correct: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(correct)
    if rows.ndim != 1 or (rows.dtype.kind not in "bif" and rows.size):
        raise ValueError(
            f"correct has shape {rows.shape} and type {rows.dtype}; it is one truth value or score "
            "a row"
        )
    scores = rows.astype(np.float64)
    wrong = ~((scores >= 0.0) & (scores <= 1.0))
    if wrong.any():
        raise ValueError(f"a score is {float(scores[wrong][0])!r}; scores lie within 0 and 1")
    return scores
