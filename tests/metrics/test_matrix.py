import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.metrics import matrix as m

R = [[0.9, 0.2, 0.1], [0.5, 0.8, 0.3], [0.6, 0.4, 0.7]]
unit = st.floats(0, 1)


@st.composite
def matrices(draw: st.DrawFn, least: int = 2) -> list[list[float]]:
    tasks = draw(st.integers(least, 6))
    row = st.lists(unit, min_size=tasks, max_size=tasks)
    return draw(st.lists(row, min_size=tasks, max_size=tasks))


def test_hand_computed() -> None:
    assert m.average_accuracy(R) == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert m.forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    assert m.backward_transfer(R) == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)
    assert m.forward_transfer(R, [0.1, 0.1, 0.25]) == pytest.approx(((0.2 - 0.1) + 0.05) / 2)
    assert m.plasticity(R) == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert m.anytime_accuracy(R) == pytest.approx([0.9, 0.65, 1.7 / 3])
    assert m.average_anytime_accuracy(R) == pytest.approx((0.9 + 0.65 + 1.7 / 3) / 3)


def test_forgetting_takes_the_best_before_the_end_even_from_before_the_task_was_learned() -> None:
    assert m.forgetting([[0.5, 0.9, 0], [0.7, 0.6, 0], [0.6, 0.5, 1]]) == pytest.approx(0.25)


def test_one_row_for_many_tasks_has_no_history() -> None:
    joint = [[0.9, 0.8, 0.7]]
    assert m.average_accuracy(joint) == pytest.approx(0.8)
    assert m.forgetting(joint) is None
    assert m.backward_transfer(joint) is None
    assert m.forward_transfer(joint, [0.1, 0.1, 0.1]) is None
    assert m.plasticity(joint) is None
    assert m.average_anytime_accuracy(joint) is None


def test_a_single_task_has_an_accuracy_and_nothing_to_forget() -> None:
    assert m.average_accuracy([[0.8]]) == m.plasticity([[0.8]]) == 0.8
    assert m.average_anytime_accuracy([[0.8]]) == 0.8
    assert m.forgetting([[0.8]]) is None
    assert m.backward_transfer([[0.8]]) is None
    assert m.forward_transfer([[0.8]], [0.1]) is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ([[0.1, 0.2], [0.3]], "row 0 has 2 values, row 1 has 1"),
        ([[0.1, 0.2], [0.3, math.nan]], r"accuracy\[1\]\[1\] is nan"),
        ([[0.1, 0.2], [0.3, 97.0]], r"accuracy\[1\]\[1\] is 97.0"),
        ([[0.1, -0.2], [0.3, 0.4]], r"accuracy\[0\]\[1\] is -0.2"),
        ([[0.1, "x"], [0.3, 0.4]], r"accuracy\[0\]\[1\] is 'x'"),
        ([[0.1, None], [0.3, 0.4]], r"accuracy\[0\]\[1\] is None"),
        ([[0.1, True], [0.3, 0.4]], r"accuracy\[0\]\[1\] is True"),
        ([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]], "2 rows for 3 tasks"),
    ],
)
def test_what_is_not_a_matrix_is_refused_by_name(bad: list, message: str) -> None:
    for formula in (m.average_accuracy, m.forgetting, m.plasticity, m.anytime_accuracy):
        with pytest.raises(ValueError, match=message):
            formula(bad)


def test_initial_accuracies_are_checked() -> None:
    with pytest.raises(ValueError, match="initial has 1 accuracies for 3 tasks"):
        m.forward_transfer(R, [0.1])
    with pytest.raises(ValueError, match=r"initial\[1\] is nan"):
        m.forward_transfer(R, [0.1, math.nan, 0.1])


@given(matrices())
def test_everything_stays_in_range(matrix: list[list[float]]) -> None:
    assert 0 <= m.average_accuracy(matrix) <= 1
    assert -1 <= m.forgetting(matrix) <= 1
    assert -1 <= m.backward_transfer(matrix) <= 1
    assert 0 <= m.plasticity(matrix) <= 1
    assert 0 <= m.average_anytime_accuracy(matrix) <= 1 + 1e-12


@given(matrices())
def test_forgetting_is_at_least_what_was_lost_since_learning(matrix: list[list[float]]) -> None:
    assert m.forgetting(matrix) >= -m.backward_transfer(matrix) - 1e-12


@given(matrices())
def test_forgetting_is_minus_bwt_where_the_diagonal_is_the_best(matrix: list[list[float]]) -> None:
    for j in range(len(matrix)):
        matrix[j][j] = max(row[j] for row in matrix)
    assert m.forgetting(matrix) == pytest.approx(-m.backward_transfer(matrix), abs=1e-12)
    assert m.forgetting(matrix) >= 0


@given(matrices())
def test_forgetting_is_not_positive_where_old_tasks_end_at_their_best(
    matrix: list[list[float]],
) -> None:
    matrix[-1] = [max(row[j] for row in matrix) for j in range(len(matrix))]
    assert m.forgetting(matrix) <= 0 <= m.backward_transfer(matrix)


@given(unit, st.integers(2, 6))
def test_a_model_that_never_changes_neither_forgets_nor_transfers(value: float, n: int) -> None:
    matrix = [[value] * n for _ in range(n)]
    assert m.forgetting(matrix) == m.backward_transfer(matrix) == 0
    assert m.forward_transfer(matrix, [value] * n) == 0
    assert m.average_accuracy(matrix) == pytest.approx(value)
