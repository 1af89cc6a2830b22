from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lifelong.bench.plots import frontier, write_frontier

VALUES = st.dictionaries(
    st.sampled_from("abcd"),
    st.dictionaries(st.integers(1, 9), st.integers(0, 9), min_size=1),
    min_size=1,
)


@given(VALUES)
def test_the_frontier_has_each_point_that_none_reaches_with_as_little(series):
    points = [(x, y) for values in series.values() for x, y in values.items()]
    expected = {
        (x, y)
        for x, y in points
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
    }
    found = frontier(series)
    assert {(x, y) for x, y, _ in found} == expected
    assert found == sorted(found)
    assert all(series[name][x] == y for x, y, name in found)


def test_what_is_on_the_frontier_and_what_is_not_are_drawn(tmp_path: Path) -> None:
    series = {"$a": {1e3: [0.5, 0.6], 1e4: [0.7]}, "b": {1e4: [0.2]}, "_c": {1e5: [0.9, 0.8]}}
    assert write_frontier(series, tmp_path / "a.png", "bytes", "accuracy").stat().st_size > 5000
