"""One candidate beside the champion on live rows that neither has learned from."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lifelong.serve.comparison import Comparison
from lifelong.serve.sequential import PairedTest
from lifelong.serve.snapshot import Snapshot

Correct = NDArray[np.bool_]

RECENT = 500
"""Rows of the recent window."""
SLICES = 100
"""Slices that are counted, at most; more have names that say nothing about groups of rows."""


class Trial:
    """One candidate beside the champion, on rows that came when neither had learned from them.

    Both compute in the trainer's process when a label has come: no request waits for this.
    """

    def __init__(self, candidate: Snapshot, champion: Snapshot, offset: int) -> None:
        self.candidate = candidate
        self.champion = champion
        self.offset = offset
        """The last event that the candidate has seen."""
        self.shadow = PairedTest()
        self.right: deque[tuple[bool, bool]] = deque(maxlen=RECENT)
        self.judged = -1
        """How many rows there were when it was judged last."""
        self._slices: dict[str, Comparison] = {}
        self._large: list[str] = []

    def add(
        self, champion: Correct, candidate: Correct, slices: Sequence[Mapping[str, str]] = ()
    ) -> None:
        """Add what both answered to new rows, with the slices that each belongs to."""
        self.shadow.add(candidate.astype(float) - champion.astype(float))
        self.right += zip(champion.tolist(), candidate.tolist(), strict=True)
        for old, new, row in zip(champion.tolist(), candidate.tolist(), slices, strict=False):
            for name in (f"{attribute}={value}" for attribute, value in row.items()):
                if name in self._slices:
                    seen = self._slices[name]
                    self._slices[name] = Comparison(
                        seen.rows + 1, seen.champion + old, seen.candidate + new,
                        (seen.lost or 0) + (old and not new),
                    )  # fmt: skip
                elif len(self._slices) < SLICES:
                    self._slices[name] = Comparison(1, int(old), int(new), int(old and not new))

    def slices(self, rows: int) -> dict[str, Comparison]:
        """Return the slices with so many rows, in the order in which they came to have them."""
        self._large += [
            name
            for name, seen in self._slices.items()
            if seen.rows >= rows and name not in self._large
        ]
        return {name: self._slices[name] for name in self._large}

    def recent(self) -> Comparison | None:
        """Compare both on the newest rows."""
        if not self.right:
            return None
        champion, candidate = zip(*self.right, strict=True)
        return Comparison.of(champion, candidate)


def right_of(snapshot: Snapshot, x: Tensor, y: Tensor, task: Tensor) -> Correct:
    """Which rows a version answers rightly, (rows,)."""
    output = snapshot.predict(x.numpy(), task.numpy())
    right: Correct = output.reshape(len(y), -1).argmax(1) == y.numpy()
    return right
