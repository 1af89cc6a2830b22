import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.serve import traffic
from lifelong.serve.traffic import Assignment, Ramp, bucket

SHARES = st.floats(0, 1)


@given(st.text(st.characters()), st.text(st.characters()))
def test_a_bucket_is_a_place_in_the_unit_interval(subject: str, salt: str) -> None:
    assert 0.0 <= bucket(subject, salt) < 1.0
    assert bucket(subject, salt) == bucket(subject, salt)


def test_a_lone_surrogate_has_a_bucket() -> None:
    assert 0.0 <= bucket("\ud800", "\udfff") < 1.0


def test_a_bucket_is_the_same_in_another_process() -> None:
    # The file alone: importing the library takes seconds and adds nothing here.
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['bucket']('ada', 'x'))"
    out = subprocess.run(
        [sys.executable, "-c", code, traffic.__file__],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77"},
    )
    assert float(out.stdout) == bucket("ada", "x")
    assert bucket("ada", "x") == pytest.approx(0.006993723992146705)  # pinned: users must not move


def test_buckets_are_even_and_independent_between_salts() -> None:
    a = np.array([bucket(str(i), "a") for i in range(20_000)])
    b = np.array([bucket(str(i), "b") for i in range(20_000)])
    for places in (a, b):
        counts = np.histogram(places, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 44  # chi-squared of 19, 0.1 %
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(20_000)


def test_salt_and_subject_do_not_run_together() -> None:
    assert bucket("c", "ab") != bucket("bc", "a")


@given(st.text(), SHARES, SHARES)
def test_who_has_the_challenger_keeps_it_as_the_share_grows(user: str, a: float, b: float) -> None:
    small, large = sorted((a, b))
    assignment = Assignment(1, 2, small)
    if assignment.version(user) == 2:
        assert assignment.with_share(large).version(user) == 2
    if assignment.with_share(large).version(user) == 1:
        assert assignment.version(user) == 1


@given(st.text())
def test_no_share_and_the_whole_share(user: str) -> None:
    assert Assignment(1).version(user) == 1
    assert Assignment(1, 2, 0.0).version(user) == 1
    assert Assignment(1, 2, 1.0).version(user) == 2


def test_a_share_is_that_share_of_users() -> None:
    assignment = Assignment(1, 2, 0.05)
    served = sum(assignment.version(str(i)) == 2 for i in range(20_000))
    assert abs(served - 1000) < 4 * np.sqrt(20_000 * 0.05 * 0.95)


def test_another_experiment_has_other_users() -> None:
    users = [str(i) for i in range(2000)]
    first = {u for u in users if Assignment(1, 2, 0.5).version(u) == 2}
    second = {u for u in users if Assignment(2, 3, 0.5).version(u) == 3}
    assert 400 < len(first & second) < 600
    kept = {u for u in users if Assignment(2, 3, 0.5, salt="1 or 2").version(u) == 3}
    assert kept == first


@given(
    st.lists(st.integers(1, 1000), max_size=6),
    st.data(),
)
def test_a_ramp_never_goes_down(gaps: list[int], data: st.DataObject) -> None:
    starts = [0, *np.cumsum(gaps).tolist()] if gaps else [0]
    shares = sorted(data.draw(st.lists(SHARES, min_size=len(starts), max_size=len(starts))))
    ramp = Ramp(list(zip(starts, shares, strict=True)))
    seen = [ramp.share(rows) for rows in range(0, starts[-1] + 2, max(1, starts[-1] // 50))]
    assert seen == sorted(seen)
    for start, share in zip(starts, shares, strict=True):
        assert ramp.share(start) == share
        assert start == 0 or ramp.share(start - 1) <= share
    assert ramp.share(ramp.complete_at) == shares[-1]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "first starts at 0"),
        ([(10, 0.1)], "first starts at 0"),
        ([(0, 0.1), (0, 0.2)], "later"),
        ([(0, 0.1), (50, 0.2), (20, 0.3)], "later"),
        ([(0, 0.2), (50, 0.1)], "shrinks"),
        ([(0, -0.1)], "within 0 and 1"),
        ([(0, float("nan"))], "within 0 and 1"),
    ],
)
def test_steps_that_are_no_ramp_are_refused(steps: list[tuple[int, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ramp(steps)


def test_rows_count_from_zero() -> None:
    with pytest.raises(ValueError, match="-1"):
        Ramp([(0, 0.1)]).share(-1)


@pytest.mark.parametrize(
    ("champion", "challenger", "share", "message"),
    [
        (1, 2, 1.5, "within 0 and 1"),
        (1, 2, float("nan"), "within 0 and 1"),
        (1, None, 0.1, "without a challenger"),
        (1, 1, 0.1, "both version 1"),
    ],
)
def test_senseless_assignments_are_refused(
    champion: int, challenger: int | None, share: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Assignment(champion, challenger, share)
