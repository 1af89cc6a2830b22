"""The horizontal axis of a chart: where a value lies, and which ticks to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10

_ZERO_AT = 0.05  # where a logarithmic axis has its zero, left of a gap
_POSITIVE_FROM = 0.2


@dataclass(frozen=True)
class Axis:
    """A value's place from 0 to 1, its text, and ticks as (place, text)."""

    label: str
    place: Callable[[float], float]
    text: Callable[[float], str]
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def steps(cls, names: Sequence[str], label: str) -> Axis:
        """One step after another, such as tasks: x = 1, 2, ...

        >>> Axis.steps(["A", "B", "C"], "after learning").place(2)
        0.5
        """
        last = len(names) - 1

        def place(x: float) -> float:
            return (x - 1) / last if last else 0.5

        ticks = [(place(i + 1), name) for i, name in enumerate(names)]
        return cls(label, place, lambda x: f"after {names[round(x) - 1]}", ticks)

    @classmethod
    def linear(
        cls,
        values: Sequence[float],
        label: str,
        text: Callable[[float], str] = "{:g}".format,
        *,
        tight: bool = False,
    ) -> Axis:
        """From 0 to a round number above the largest value, or to the value itself if tight.

        >>> [text for _, text in Axis.linear([3.0, 17.0], "seconds").ticks]
        ['0', '5', '10', '15', '20']
        """
        top = max(max(values, default=0.0), 1e-9)
        rough = top / 4
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999)
        count = max(floor(top / step + 1e-9) if tight else ceil(top / step - 1e-9), 1)
        end = top if tight else step * count
        ticks = [(step * k / end, text(round(step * k, 12))) for k in range(count + 1)]
        return cls(label, lambda x: x / end, text, ticks)

    @classmethod
    def logarithmic(
        cls, values: Sequence[float], label: str, text: Callable[[float], str] = "{:g}".format
    ) -> Axis:
        """By powers of ten; zeros have a place of their own at the left.

        >>> [text for _, text in Axis.logarithmic([0, 2e3, 5e4], "bytes").ticks]
        ['0', '1000', '10000', '100000']
        """
        positive = [value for value in values if value > 0]
        if not positive:
            return cls.linear(values, label, text)
        low, high = floor(log10(min(positive))), ceil(log10(max(positive)))
        high = max(high, low + 1)
        start = _POSITIVE_FROM if min(values) <= 0 else 0.0

        def place(x: float) -> float:
            if x <= 0:
                return _ZERO_AT
            return start + (log10(x) - low) / (high - low) * (1 - start)

        ticks = [(_ZERO_AT, text(0))] if start else []
        stride = ceil((high - low) / 6)
        ticks += [(place(10.0**k), text(10.0**k)) for k in range(low, high + 1, stride)]
        return cls(label, place, text, ticks)

    def fitting(self, pixels: float, width: Callable[[str], float]) -> list[tuple[float, str]]:
        """Return the ticks that fit side by side; numbers stand in for names that are too long.

        >>> axis = Axis.steps(["a long name", "another one"], "after learning")
        >>> axis.fitting(40, lambda text: 7 * len(text))
        [(0.0, '1'), (1.0, '2')]
        """
        ticks = list(self.ticks)

        def crowded() -> bool:
            return any(
                (b[0] - a[0]) * pixels < (width(a[1]) + width(b[1])) / 2 + 8
                for a, b in pairwise(ticks)
            )

        if crowded() and not all(text[:1].isdigit() for _, text in ticks):
            ticks = [(place, str(i + 1)) for i, (place, _) in enumerate(ticks)]
        while len(ticks) > 2 and crowded():
            ticks = ticks[::2]
        return ticks


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move places apart until neighbours are `gap` away, within low..high if there is room.

    Places that hardly differ keep the order they came in.

    >>> spread([10.0, 12.0, 50.0], gap=10, low=0, high=100)
    [10.0, 20.0, 50.0]
    """
    order = sorted(range(len(places)), key=lambda index: round(places[index]))
    moved: list[float] = []
    for index in order:
        floor_at = moved[-1] + gap if moved else low
        moved.append(max(places[index], floor_at))
    ceiling = high
    for k in range(len(moved) - 1, -1, -1):
        moved[k] = min(moved[k], ceiling)
        ceiling = moved[k] - gap
    result = [0.0] * len(places)
    for index, place in zip(order, moved, strict=True):
        result[index] = place
    return result
