from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.nonnegative import nonnegative_minimum


@st.composite
def programs(draw):
    """Rows g_t and a target g, from few small whole numbers, so that rows often depend."""
    tasks, size = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    numbers = st.integers(-3, 3)
    rows = draw(st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=tasks,
                         max_size=tasks))  # fmt: skip
    target = draw(st.lists(numbers, min_size=size, max_size=size))
    return np.array(rows, dtype=float), np.array(target, dtype=float)


def by_brute_force(rows, target):
    """The nearest point to the target of the cone, over all sets of constraints that may bind."""
    best, least = None, np.inf
    for count in range(len(rows) + 1):
        for held in map(list, combinations(range(len(rows)), count)):
            basis = rows[held]
            point = target - np.linalg.pinv(basis) @ (basis @ target) if held else target
            distance = ((point - target) ** 2).sum()
            if (rows @ point >= -1e-9).all() and distance < least:
                best, least = point, distance
    return best


@given(programs())
@settings(max_examples=300, deadline=None)
def test_it_is_the_projection_onto_the_cone(program):
    rows, target = program
    share = nonnegative_minimum(rows @ rows.T, rows @ target)
    np.testing.assert_allclose(target + share @ rows, by_brute_force(rows, target), atol=1e-7)


@given(programs())
@settings(max_examples=300, deadline=None)
def test_the_conditions_of_karush_kuhn_and_tucker_hold(program):
    rows, target = program
    square, slope = rows @ rows.T, rows @ target
    share = nonnegative_minimum(square, slope)
    gradient = square @ share + slope
    scale = 1e-9 * max(1.0, np.abs(slope).max())
    assert (share >= 0).all()
    assert (gradient >= -scale).all()
    assert abs(share @ gradient) <= scale * max(1.0, share.sum())


@pytest.mark.parametrize("count", [20, 100])
@pytest.mark.parametrize("size", [10, 400])
def test_many_constraints(count, size):
    chance = np.random.default_rng(count + size)
    rows = chance.normal(size=(count, size)) + chance.normal(size=size)
    target = chance.normal(size=size) - rows.mean(0)
    square, slope = rows @ rows.T, rows @ target
    share = nonnegative_minimum(square, slope)
    gradient = square @ share + slope
    assert (share >= 0).all()
    assert gradient.min() >= -1e-9 * np.abs(slope).max()
    assert abs(share @ gradient) <= 1e-7 * np.abs(slope).max() * share.max()


def test_nearly_equal_rows_do_not_blow_up():
    chance = np.random.default_rng(0)
    one = chance.normal(size=50)
    rows = np.stack([one, one * (1 + 1e-9), -one + 1e-9 * chance.normal(size=50)])
    target = chance.normal(size=50)
    point = target + nonnegative_minimum(rows @ rows.T, rows @ target, 1e-6) @ rows
    assert np.linalg.norm(point) <= np.linalg.norm(target) * (1 + 1e-6)
    assert (rows @ point >= -1e-5).all()


def test_nothing_and_what_is_not_finite():
    assert nonnegative_minimum(np.zeros((0, 0)), np.zeros(0)).shape == (0,)
    assert np.isnan(nonnegative_minimum(np.eye(2), np.array([1.0, np.nan]))).all()
    assert nonnegative_minimum(np.zeros((2, 2)), np.zeros(2)).tolist() == [0.0, 0.0]
