import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong import ClassRatio, PerTask, Rising
from lifelong.strategies.schedules import Progress

COUNTS = st.integers(0, 10**6)


@given(COUNTS, st.integers(1, 10**5), st.floats(0, 3))
def test_rising_is_a_line_from_its_start_to_one_and_stays_there(steps, over, start):
    rising = Rising(over, start)
    found = rising(Progress(tasks=1, steps=steps))
    expected = 1.0 if steps >= over else start + (1 - start) * steps / over
    assert found == pytest.approx(expected)
    assert min(start, 1.0) - 1e-9 <= found <= max(start, 1.0) + 1e-9


@given(COUNTS, st.sampled_from([0.0, 0.5, 1.0]))
def test_per_task_is_a_power_of_the_old_tasks(tasks, power):
    assert PerTask(power)(Progress(tasks, steps=7)) == pytest.approx(max(1, tasks) ** power)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_class_ratio_is_the_root_of_old_over_new(old, new):
    assert ClassRatio()(Progress(3, 0, old, new)) == pytest.approx(math.sqrt(old / new))
    assert ClassRatio(1.0)(Progress(3, 0, old, new)) == pytest.approx(old / new)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 2), (4, 0)])
def test_class_ratio_counts_tasks_where_there_are_no_classes(old, new):
    assert ClassRatio()(Progress(9, 0, old, new)) == 3.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Rising(0), "over is 0"),
        (lambda: Rising(start=-0.5), "start is -0.5"),
        (lambda: Rising(start=math.nan), "start is nan"),
        (lambda: PerTask(math.inf), "power is inf"),
        (lambda: ClassRatio(math.nan), "power is nan"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, told):
    with pytest.raises(ValueError, match=told):
        make()
