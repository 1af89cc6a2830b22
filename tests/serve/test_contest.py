import numpy as np

from lifelong.serve.comparison import Evidence
from lifelong.serve.contest import POINTS, Contest
from lifelong.serve.gate import Gate
from lifelong.serve.sequential import PairedTest


def test_points_are_bounded_and_keep_the_first_and_the_newest():
    contest, test = Contest(), PairedTest()
    chance = np.random.default_rng(0)
    for n in range(1, 1001):
        test.add(chance.integers(-1, 2, 1))
        contest.look((3, 2, test), None)
        assert contest.last.points[-1][0] == contest.last.n == n
    assert POINTS / 2 <= len(contest.last.points) <= POINTS
    assert contest.last.points[0][0] == 1
    assert (contest.last.low, contest.last.high) == test.interval()
    rows = [point[0] for point in contest.last.points]
    assert rows == sorted(set(rows))


def test_a_new_trial_begins_anew_and_an_old_one_stays_until_then():
    contest, test = Contest(), PairedTest()
    test.add([1.0, 0.0])
    judged = Gate().judge(Evidence(shadow=test))
    contest.look((3, 2, test), None)
    contest.look(None, judged)
    assert contest.last.over
    assert contest.last.report == judged.report
    contest.look(None, None)
    assert contest.last.version == 3
    contest.look((4, 2, PairedTest()), None)
    assert (contest.last.version, contest.last.n, contest.last.over) == (4, 0, False)
    assert contest.last.points == []
    assert contest.last.report is None


def test_nothing_is_computed_while_no_row_comes(monkeypatch):
    contest, test = Contest(), PairedTest()
    test.add([1.0, 0.0])
    contest.look((3, 2, test), None)
    monkeypatch.setattr(PairedTest, "interval", None)
    contest.look((3, 2, test), None)
