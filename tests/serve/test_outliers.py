import numpy as np
import pytest

from lifelong.serve.outliers import Outliers


def usual(rows, seed=0):
    chance = np.random.default_rng(seed)
    return np.exp(chance.normal(1, 0.3, rows)), chance.exponential(0.2, rows)


def test_usual_rows_pass():
    found = Outliers().look(*usual(5000))
    assert sum(why is not None for why in found) <= 5


def test_a_burst_is_kept_out_and_a_change_that_lasts_is_not():
    outliers = Outliers()
    outliers.look(*usual(2000))
    burst = outliers.look(usual(60)[0], np.full(60, 7.0))
    assert burst == ["loss"] * 60
    lasting = outliers.look(usual(1000)[0], np.full(1000, 7.0))
    assert lasting[-1] is None
    assert 1 < sum(why == "loss" for why in lasting) < 100


def test_values_without_end_do_no_harm():
    outliers = Outliers(warmup=50)
    outliers.look(*usual(100))
    assert outliers.look(np.array([np.inf]), np.array([0.1])) == ["norm"]
    assert outliers.look(*usual(10)) == [None] * 10


def test_it_goes_on_where_it_was():
    one, other = Outliers(), Outliers()
    one.look(*usual(500))
    other.load_state_dict(one.state_dict())
    assert one.look(*usual(300, 1)) == other.look(*usual(300, 1))
    assert one.state_dict() == other.state_dict()


def test_zero_deviations_switch_it_off():
    assert Outliers(0.0, warmup=1).look(np.array([1.0, 1e30]), np.zeros(2)) == [None, None]


@pytest.mark.parametrize("wrong", [{"deviations": -1}, {"rate": 0}, {"rate": 1}, {"warmup": 0}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Outliers(**wrong)
