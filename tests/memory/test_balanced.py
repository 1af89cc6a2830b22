from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import Shown, chi_square

from lifelong.memory import Balanced


@settings(deadline=None, max_examples=80)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=8))
def test_balanced_stays_balanced(batches: list[list[int]]) -> None:
    shown, offered = Shown(Balanced(13)), Counter[int]()
    for batch in batches:
        shown.offer(batch)
        offered.update(batch)
        sizes = shown.of_group()
        assert sum(sizes.values()) == min(13, offered.total())
        for group in offered:  # below the largest by two only if it holds all it saw
            assert sizes[group] == offered[group] or sizes[group] >= max(sizes.values()) - 1


def test_balanced_is_uniform_within_groups() -> None:
    counts = torch.zeros(75)
    for seed in range(800):
        shown = Shown(Balanced(12), seed)
        for batch in ([0] * 20, [0, 1] * 10, [1] * 5 + [2], [0, 1, 2] * 9 + [2] * 2):
            shown.offer(batch)
        assert set(shown.of_group().values()) == {4}
        counts[list(shown.held)] += 1
    groups = torch.tensor([0] * 20 + [0, 1] * 10 + [1] * 5 + [2] + [0, 1, 2] * 9 + [2] * 2)
    for group in range(3):
        assert chi_square(counts[: len(groups)][groups == group]) < 3.5
