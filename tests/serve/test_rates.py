import pytest

from lifelong.serve.rates import Rates


def counted(*counts, start=0.0):
    times = iter([start + i for i in range(len(counts))])
    rates = Rates(lambda: next(times))
    for count in counts:
        rates.add({"label": count, "tick": 0})
    return rates.shown()


def test_growth_is_divided_by_the_time_that_it_took():
    shown = counted(*range(100, 400, 3))
    assert shown["totals"] == {"label": 397, "tick": 0}
    assert shown["per_second"] == {"label": 3.0, "tick": 0.0}
    assert shown["seconds"] == 60.0
    assert [point["per_second"]["label"] for point in shown["points"]] == [3.0] * 19
    assert [point["ago"] for point in shown["points"]][-2:] == [5.0, 0.0]


def test_it_is_the_last_minute_that_counts_and_five_that_are_kept():
    shown = counted(*[0] * 400, *[i * 10 for i in range(1, 61)])
    assert shown["per_second"]["label"] == 10.0
    assert len(shown["points"]) == 60


def test_erasing_is_no_negative_event():
    shown = counted(10, 20, 5, 15)
    assert shown["per_second"]["label"] == pytest.approx(20 / 3)
    assert shown["totals"]["label"] == 15


def test_one_count_says_nothing_of_speed():
    assert counted(7) == {
        "totals": {"label": 7, "tick": 0}, "per_second": {}, "seconds": 0.0, "points": [],
    }  # fmt: skip
