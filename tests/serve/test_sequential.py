import json
from fractions import Fraction
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.errors import StateMismatch
from lifelong.serve.sequential import _BETS, PairedTest, _log_capital

TERNARY = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60)
SCORES = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=60)


def verdicts(worse: float, better: float, *, runs: int, rows: int, seed: int) -> list[list[str]]:
    """Verdicts after every 50 rows, up to the first that decides, run by run."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        test, seen = PairedTest(), []
        differences = rng.choice([-1, 0, 1], size=rows, p=[worse, 1 - worse - better, better])
        for start in range(0, rows, 50):
            test.add(differences[start : start + 50])
            seen.append(test.verdict())
            if seen[-1] != "undecided":
                break
        found.append(seen)
    return found


@pytest.mark.parametrize(("worse", "better"), [(0.05, 0.05), (0.06, 0.04)])
def test_no_gain_is_rarely_called_better_at_any_time(worse: float, better: float) -> None:
    # 5 % allowed is 10 of 200; more than 18 would happen by chance once in 200 suites.
    seen = verdicts(worse, better, runs=200, rows=2000, seed=1)
    assert sum("better" in run for run in seen) <= 18


def test_a_gain_of_two_points_is_found() -> None:
    seen = verdicts(0.04, 0.06, runs=60, rows=8000, seed=2)
    assert sum(run[-1] == "better" for run in seen) >= 56
    assert np.median([50 * len(run) for run in seen]) < 3300


def test_a_loss_of_two_points_is_found() -> None:
    seen = verdicts(0.06, 0.04, runs=20, rows=8000, seed=3)
    assert sum(run[-1] == "worse" for run in seen) >= 18


def test_the_interval_covers_the_mean_at_all_times() -> None:
    rng = np.random.default_rng(4)
    missed = 0
    for _ in range(40):
        test = PairedTest(alpha=0.2)
        out = False
        for _ in range(15):
            test.add(rng.beta(2, 3, size=20) * 2 - 1)  # mean 2 * 0.4 - 1
            low, high = test.interval()
            out |= not low <= -0.2 <= high
        missed += out
    assert missed <= 16  # 20 % allowed is 8 of 40; above 16 by chance once in 500 suites


@given(TERNARY, st.floats(-0.9, 0.9))
def test_the_capital_is_the_product_it_says(differences: list[int], m: float) -> None:
    test = PairedTest()
    test.add(differences)
    products = []
    for bet in _BETS:
        product = Fraction(1)
        for d in differences:
            product *= 1 + Fraction(float(bet)) * (d - Fraction(m)) / (1 + Fraction(m))
        products.append(product)
    expected = sum(products) / len(products)
    assert _log_capital(test._counts, m)[0] == pytest.approx(log(expected), abs=1e-6)


@given(SCORES, st.floats(-0.9, 0.9))
def test_counting_scores_on_a_grid_never_gains_capital(scores: list[float], m: float) -> None:
    test = PairedTest()
    test.add(scores)
    exact = np.log1p(np.outer(_BETS, (np.array(scores) - m) / (1 + m)).clip(-1 + 1e-15)).sum(1)
    assert _log_capital(test._counts, m)[0] <= np.log(np.exp(exact).mean()) + 1e-6
    assert test.mean == pytest.approx(np.mean(scores), abs=1e-9)


@given(st.one_of(TERNARY, SCORES), st.integers(0, 60))
def test_batches_and_restarts_change_no_bit(rows: list[float], cut: int) -> None:
    whole = PairedTest()
    whole.add(rows)
    first, second = PairedTest(), PairedTest()
    first.add(rows[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.add(rows[cut:])
    assert second.state_dict() == whole.state_dict()
    assert second.interval() == whole.interval()


@settings(deadline=None)
@given(st.one_of(TERNARY, SCORES))
def test_the_interval_holds_the_sample_mean_and_mirrors(rows: list[float]) -> None:
    test, mirror = PairedTest(), PairedTest()
    test.add(rows)
    mirror.add([-x for x in rows])
    low, high = test.interval()
    assert -1.0 <= low <= test.mean + 1e-12
    assert test.mean - 1e-12 <= high <= 1.0
    back = mirror.interval()
    assert (-back[1], -back[0]) == pytest.approx((low, high), abs=1e-7)


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.floats(-0.5, 0.5))
def test_the_verdict_is_where_the_interval_lies(w: int, s: int, b: int, margin: float) -> None:
    test = PairedTest.counted(w + s + b, w, b, margin=margin)
    low, high = test.interval()
    verdict = test.verdict()
    assert (verdict == "better") == (low > margin) or abs(low - margin) < 1e-8
    assert (verdict == "worse") == (high < margin) or abs(high - margin) < 1e-8


def test_counts_are_the_same_as_rows() -> None:
    rows = PairedTest()
    rows.add(np.repeat([-1, 0, 1], [4, 90, 6]))
    assert PairedTest.counted(100, 4, 6).state_dict() == rows.state_dict()


def test_before_the_first_row_nothing_is_known() -> None:
    test = PairedTest()
    test.add([])
    assert (test.n, test.mean, test.interval(), test.verdict()) == (0, 0.0, (-1, 1), "undecided")


def test_extreme_rows_stay_finite() -> None:
    for sign in (-1, 1):
        test = PairedTest()
        test.add(np.full(100_000, sign))
        low, high = test.interval()
        assert np.isfinite([low, high]).all()
        assert test.verdict() == ("better" if sign > 0 else "worse")


def test_a_negative_margin_shows_that_a_candidate_is_not_worse() -> None:
    assert PairedTest.counted(5000, 50, 50, margin=-0.02).verdict() == "better"
    assert PairedTest.counted(5000, 50, 50).verdict() == "undecided"


@pytest.mark.parametrize(
    "rows", [[1.5], [float("nan")], [[0, 1]], ["a"], [True, False], 1.0, [float("inf")]]
)
def test_rows_that_are_no_differences_are_refused_and_change_nothing(rows: object) -> None:
    test = PairedTest()
    with pytest.raises(ValueError, match="difference"):
        test.add(rows)  # type: ignore[arg-type]
    assert test.state_dict() == PairedTest().state_dict()


@pytest.mark.parametrize("arguments", [{"alpha": 0}, {"alpha": 1}, {"margin": 1}, {"margin": -1}])
def test_senseless_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PairedTest(**arguments)


def test_counts_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="worse and 60 better of 90"):
        PairedTest.counted(90, 40, 60)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.1},
        {"margin": 0.01},
        {"n": -1},
        {"n": 7},
        {"n": "3"},
        {"counts": [1.0]},
        {"counts": [-1.0] + [0.0] * 128},
        {"counts": [float("nan")] * 129},
        {"extra": 1},
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    test = PairedTest.counted(3, 1, 1)
    before = test.state_dict()
    with pytest.raises(StateMismatch):
        test.load_state_dict({**before, **change})
    assert test.state_dict() == before


def test_is_below_says_what_the_bound_says() -> None:
    test = PairedTest.counted(300, worse=60, better=20)
    for alpha in (0.05, 0.001):
        bound = test.upper(alpha)
        assert test.is_below(bound + 1e-6, alpha)
        assert not test.is_below(bound - 1e-6, alpha)
    assert not PairedTest().is_below(0.5, 0.05)
