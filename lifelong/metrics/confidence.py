"""A mean over seeds and how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite, lgamma, log, log1p, sqrt


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, its standard error and half the width of its confidence interval.

    One value has neither error nor interval: both are None.
    """

    mean: float
    sem: float | None
    half: float | None
    count: int

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    def overlaps(self, other: Interval) -> bool:
        """Tell whether the intervals of two have a value in common; False if one has none.

        >>> interval([1.0, 2.0]).overlaps(interval([2.0, 3.0])), interval([1.0]).overlaps(
        ...     interval([1.0])
        ... )
        (True, False)
        """
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low <= other.high and other.low <= self.high


def interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's confidence interval.

    mean ± t(1 - (1 - confidence)/2, n - 1) s / sqrt(n), s the sample standard deviation

    >>> ours = interval([0.90, 0.92, 0.94])
    >>> f"{ours.mean:.3f} ± {ours.half:.3f}, standard error {ours.sem:.4f}"
    '0.920 ± 0.050, standard error 0.0115'
    >>> interval([0.9])
    Interval(mean=0.9, sem=None, half=None, count=1)
    """
    count = len(values)
    if count == 0:
        raise ValueError("no values; an interval needs at least one")
    if not all(isfinite(value) for value in values):
        raise ValueError(f"values are {list(values)!r}; an interval needs finite numbers")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence!r}; it lies between 0 and 1, such as 0.95")
    mean = fsum(values) / count
    if count == 1:
        return Interval(mean, None, None, 1)
    sem = sqrt(fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    return Interval(mean, sem, sem * t_quantile((1 + confidence) / 2, count - 1), count)


def t_quantile(probability: float, freedom: float) -> float:
    """Return the value that Student's t falls below with the given probability.

    Found by bisection on the distribution function, down to the spacing of floats.

    >>> round(t_quantile(0.975, 4), 6)
    2.776445
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability is {probability!r}; it lies between 0 and 1, both excluded")
    if not freedom > 0.0 or not isfinite(freedom):
        raise ValueError(f"freedom is {freedom!r}; the degrees of freedom are a positive number")
    if probability == 0.5:
        return 0.0
    tail = min(probability, 1.0 - probability)
    low, high = 0.0, 1.0
    while _t_tail(high, freedom) > tail:
        low, high = high, 2.0 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_tail(middle, freedom) > tail else (low, middle)
    return high if probability > 0.5 else -high


def _t_tail(t: float, freedom: float) -> float:
    """P(T > t) for t >= 0 is I_x(freedom/2, 1/2) / 2 at x = freedom / (freedom + t^2)."""
    square = t * t
    total = freedom + square
    return 0.5 * _incomplete_beta(freedom / total, square / total, freedom)


def _incomplete_beta(x: float, rest: float, freedom: float) -> float:
    """I_x(freedom/2, 1/2), the regularised incomplete beta function; rest is 1 - x, unrounded."""
    a, b = freedom / 2, 0.5
    if rest == 0.0:
        return 1.0
    if x == 0.0:
        return 0.0
    log_x = log(x) if x < 0.5 else log1p(-rest)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log_x + b * log(rest))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(rest, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by the modified Lentz method.

    Abramowitz & Stegun 26.5.8.
    """
    tiny = 1e-300
    c, d = 1.0, 1.0 / ((1.0 - (a + b) * x / (a + 1)) or tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / ((1.0 + term * d) or tiny)
            c = (1.0 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return value
    raise ArithmeticError(f"the incomplete beta function did not settle at x={x}, a={a}, b={b}")
