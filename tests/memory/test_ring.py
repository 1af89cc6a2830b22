from collections import defaultdict, deque

from hypothesis import given, settings
from hypothesis import strategies as st
from shown import Shown

from lifelong.memory import Ring


@settings(deadline=None, max_examples=80)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=8))
def test_ring_holds_the_latest_of_each_group(batches: list[list[int]]) -> None:
    shared, fixed = Shown(Ring(12)), Shown(Ring(14, groups=4))
    latest: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=3))
    history: dict[int, list[int]] = defaultdict(list)
    row = 0
    for batch in batches:
        for shown in (shared, fixed):
            shown.offer(batch)
        for group in batch:
            latest[group].append(row)
            history[group].append(row)
            row += 1
    assert fixed.held == {row for rows in latest.values() for row in rows}
    sizes = shared.of_group()
    assert sum(sizes.values()) == min(12, row)
    for group, rows in history.items():
        assert shared.held & set(rows) == set(rows[-sizes[group] :])
        assert sizes[group] >= min(len(rows), 12 // len(history))


def test_ring_after_forgetting_stays_first_in_first_out() -> None:
    shown = Shown(Ring(6, groups=2))
    shown.offer([0, 1, 0, 1, 0, 1, 0])
    shown.forget({4, 1})
    shown.offer([0, 1])
    assert shown.held == {2, 6, 7, 3, 5, 8}
    shown.offer([0])
    assert shown.held == {9, 6, 7, 3, 5, 8}
