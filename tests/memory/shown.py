"""A policy whose rows are followed by hand, and a measure of uniformity."""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from lifelong.memory import Policy


class Shown:
    """Follow by hand which row, and of which group, lies in each slot."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self.policy, self.chance = policy, torch.Generator().manual_seed(seed)
        self.rows: dict[int, tuple[int, int]] = {}
        self.offered = 0

    def offer(self, groups: list[int]) -> None:
        slots, source = self.policy.place(torch.tensor(groups), len(groups), self.chance)
        assert len(set(slots.tolist())) == len(slots)
        source = np.arange(len(groups)) if source is None else source
        for slot, row in zip(slots.tolist(), source.tolist(), strict=True):
            self.rows[slot] = (self.offered + row, groups[row])
        self.offered += len(groups)
        assert sorted(self.rows) == list(range(self.policy.held))
        assert self.policy.held <= self.policy.capacity

    def forget(self, rows: set[int]) -> None:
        dropped = np.array(
            [s for s in sorted(self.rows) if self.rows[s][0] in rows], dtype=np.int64
        )
        gaps, moved = self.policy.forget(dropped)
        for gap, slot in zip(gaps.tolist(), moved.tolist(), strict=True):
            self.rows[gap] = self.rows[slot]
        self.rows = {slot: self.rows[slot] for slot in range(self.policy.held)}
        assert not rows & self.held

    @property
    def held(self) -> set[int]:
        return {row for row, _ in self.rows.values()}

    def of_group(self) -> Counter[int]:
        return Counter(group for _, group in self.rows.values())


def chi_square(counts: Tensor) -> float:
    """Chi-square of counts against equal ones, in standard deviations above its mean."""
    expected = counts.double().mean()
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5)
