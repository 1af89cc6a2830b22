import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.metrics.confidence import interval, t_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [
        (0.975, 1, 12.706204736432095),
        (0.975, 2, 4.302652729911275),
        (0.975, 3, 3.182446305284263),
        (0.975, 4, 2.776445105198054),
        (0.975, 9, 2.262157162740992),
        (0.975, 19, 2.093024054408263),
        (0.975, 100, 1.983971518523552),
        (0.95, 5, 2.015048372669157),
        (0.995, 10, 3.169272672616865),
        (0.9, 30, 1.310415025288143),
        (0.6, 7, 0.2631668650562285),
        (0.975, 1e6, 1.959966),
    ],
)
def test_known_quantiles(probability: float, freedom: float, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=1e-6)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-value, abs=1e-6)


@given(st.floats(0.001, 0.999))
def test_closed_forms_for_one_and_two_degrees(probability: float) -> None:
    cauchy = math.tan(math.pi * (probability - 0.5))
    assert t_quantile(probability, 1) == pytest.approx(cauchy, rel=1e-8, abs=1e-8)
    two = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    assert t_quantile(probability, 2) == pytest.approx(two, rel=1e-8, abs=1e-8)


@given(st.floats(0.001, 0.999), st.floats(0.5, 200))
def test_the_quantile_is_odd_and_rises(probability: float, freedom: float) -> None:
    value = t_quantile(probability, freedom)
    assert value == pytest.approx(-t_quantile(1 - probability, freedom), rel=1e-6, abs=1e-6)
    assert t_quantile(min(probability + 0.0005, 0.9999), freedom) > value


def test_an_interval_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.sem == pytest.approx(math.sqrt(5 / 3) / 2)
    assert found.half == pytest.approx(3.182446305284263 * found.sem)
    assert (found.low, found.high) == pytest.approx((2.5 - found.half, 2.5 + found.half))


def test_one_value_has_no_interval() -> None:
    found = interval([0.5])
    assert (found.mean, found.sem, found.half, found.low, found.high) == (0.5, *[None] * 4)


def test_intervals_overlap_where_they_share_a_value() -> None:
    one, other = interval([1.0, 2.0]), interval([20.0, 21.0])
    assert one.overlaps(one)
    assert one.overlaps(other) is other.overlaps(one) is (one.high >= other.low)
    assert not one.overlaps(interval([40.0, 41.0]))
    assert not one.overlaps(interval([1.5]))
    assert not interval([1.5]).overlaps(one)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_interval_of_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match="interval needs"):
        interval(values)


@pytest.mark.parametrize(("probability", "freedom"), [(0, 3), (1, 3), (0.5, 0), (0.9, math.inf)])
def test_arguments_outside_their_range(probability: float, freedom: float) -> None:
    with pytest.raises(ValueError, match=r"probability is|freedom is"):
        t_quantile(probability, freedom)
    with pytest.raises(ValueError, match="confidence is 95"):
        interval([1, 2], confidence=95)
