"""What is known of a candidate beside the champion, and what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from lifelong.serve.sequential import PairedTest

Verdict = Literal["promote", "refuse", "undecided"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What champion and candidate got right on the same rows.

    Attributes:
        rows: how many rows; at least 1.
        champion: how many of them the champion got right.
        candidate: how many of them the candidate got right.
        lost: how many the champion alone got right. If it is None, the worst case is taken: that
            the two agreed as little as they could, which makes every bound wider.

    Raises:
        ValueError: the counts contradict each other.

    Example:
        >>> Comparison.of(champion=[1, 1, 0, 0], candidate=[1, 0, 1, 1])
        Comparison(rows=4, champion=2, candidate=3, lost=1)
    """

    rows: int
    champion: int
    candidate: int
    lost: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or not all(0 <= n <= self.rows for n in (self.champion, self.candidate)):
            raise ValueError(
                f"{self.champion} and {self.candidate} correct of {self.rows} rows; there is at "
                "least 1 row, and no more are correct than there are"
            )
        most = min(self.champion, self.rows - self.candidate)
        least = max(0, self.champion - self.candidate)
        if self.lost is not None and not least <= self.lost <= most:
            raise ValueError(
                f"lost is {self.lost}, with {self.champion} and {self.candidate} correct of "
                f"{self.rows} rows; it is {least} to {most}"
            )

    @classmethod
    def of(cls, champion: ArrayLike, candidate: ArrayLike) -> Comparison:
        """Compare row by row: which rows each got right, both (rows,), true or false."""
        a, b = np.asarray(champion), np.asarray(candidate)
        if a.shape != b.shape or a.ndim != 1:
            raise ValueError(f"shapes are {a.shape} and {b.shape}; both are (rows,), the same rows")
        if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
            raise ValueError("rows are true or false (1 or 0): whether each version was right")
        a, b = a.astype(bool), b.astype(bool)
        return cls(len(a), int(a.sum()), int(b.sum()), int((a & ~b).sum()))

    @property
    def drop(self) -> float:
        """How much lower the candidate's rate is on these rows."""
        return (self.champion - self.candidate) / self.rows

    def test(self) -> PairedTest:
        """Return the test of candidate minus champion on these rows."""
        lost = self.lost
        if lost is None:
            lost = min(self.champion, self.rows - self.candidate)
        gained = lost + self.candidate - self.champion
        return PairedTest.counted(self.rows, worse=lost, better=gained)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a candidate beside the champion.

    Attributes:
        anchors: kept rows of each old task or period, by its number or name.
        recent: the newest labelled rows, which neither version has learned from.
        slices: groups of rows that matter by themselves, by name.
        shadow: candidate minus champion on live traffic. Its alpha and margin are not looked at.
    """

    anchors: Mapping[int | str, Comparison] = field(default_factory=dict)
    recent: Comparison | None = None
    slices: Mapping[str, Comparison] = field(default_factory=dict)
    shadow: PairedTest | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the sentences that give its reasons, and all of it as JSON values."""

    verdict: Verdict
    reasons: tuple[str, ...]
    report: dict[str, Any]
