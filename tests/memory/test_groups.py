import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lifelong.memory.groups import shares


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1), st.integers(1, 40))
def test_shares_are_level(groups: list[tuple[int, int]], capacity: int) -> None:
    wanted, current = (np.array(column) for column in zip(*groups, strict=True))
    room = shares(wanted, current, capacity)
    assert room.sum() == min(capacity, wanted.sum())
    assert (room <= wanted).all()
    assert (room[room < wanted] >= room.max() - 1).all()
