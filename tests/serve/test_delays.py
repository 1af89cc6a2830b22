from lifelong.serve.delays import delays
from lifelong.serve.progress import Learned


def test_a_row_is_served_by_the_first_version_that_has_learned_it_or_a_later_one():
    rows = [Learned(2, 1, 1, [100.0]), Learned(3, 2, 1, [110.0]), Learned(5, 3, 1, [130.0])]
    # Version 3 was never promoted itself: 4 came of it. 1 and 2 came back, which have not seen it.
    promotions = [(105.0, 2), (112.0, 1), (113.0, 2), (140.0, 4), (150.0, 2)]
    found = delays(rows, promotions, now=160.0)
    assert (found["p50"], found["p99"], found["rows"]) == (5.0, 30.0, 2)
    assert (found["waiting"], found["oldest"]) == (1, 30.0)


def test_times_stand_for_all_rows_of_their_version():
    rows = [Learned(2, 1, 99, [90.0, 90.0, 90.0]), Learned(3, 100, 1, [0.0])]
    found = delays(rows, [(100.0, 3)], now=100.0)
    assert (found["p50"], found["p99"], found["rows"]) == (10.0, 10.0, 100)
    more = [*rows, Learned(4, 101, 1, [0.0])]
    assert delays(more, [(100.0, 4)], now=100.0)["p99"] == 100.0


def test_nothing_is_made_up():
    none = {"p50": None, "p99": None, "rows": 0, "waiting": 0, "oldest": None}
    assert delays([], [], now=1.0) == none
    assert delays([Learned(2, 1, 0, [])], [(1.0, 2)], now=1.0) == none


def test_a_clock_that_went_back_gives_no_negative_delay():
    assert delays([Learned(2, 1, 1, [50.0])], [(40.0, 2)], now=60.0)["p50"] == 0.0
