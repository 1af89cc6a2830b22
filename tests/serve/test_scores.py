import numpy as np
import pytest

from lifelong.metrics import forgetting as of_matrix
from lifelong.serve import scores
from lifelong.serve.noting import NOT_SERVED, Stretch


def test_rows_nobody_asked_for_are_not_compared_with_what_was_served():
    right = np.array([1, 1, 0, 1], np.uint8)
    served = np.array([1, 0, NOT_SERVED, 0], np.uint8)
    found = scores.answered([11, 12, 15, 20], right, served, Stretch(11, 20, 1, 0))
    assert (found["rows"], found["predictions"]) == (4, 3)
    assert found["accuracy"] == 0.75
    assert (found["on_predictions"], found["served"]) == (1.0, pytest.approx(1 / 3))
    assert found["difference"] == pytest.approx(2 / 3)
    assert found["half"] == pytest.approx(1.96 * np.std([0, 1, 1], ddof=1) / 3**0.5)


def test_parts_of_the_stream_hold_each_row_once():
    offsets = list(range(101, 301))
    right = (np.arange(200) % 3 == 0).astype(np.uint8)
    found = scores.answered(offsets, right, right, Stretch(101, 300, 1, 0))
    parts = found["over_time"]
    assert [part["rows"] for part in parts] == [5] * scores.PARTS
    assert [part["from"] for part in parts] == list(range(101, 301, 5))
    assert parts[1]["accuracy"] == parts[1]["served"] == pytest.approx(right[5:10].mean())


def test_nothing_has_no_accuracy():
    nothing = np.empty(0, np.uint8)
    found = scores.answered([], nothing, nothing, Stretch(1, 9, 1, 0))
    assert found["accuracy"] is found["served"] is found["difference"] is found["half"] is None
    assert scores.average([]) is scores.forgetting([]) is scores.forgetting([{"0": 1.0}]) is None


def test_forgetting_is_that_of_the_matrix_where_later_periods_are_not_measured():
    """With nothing known of a period before it begins, the definitions agree."""
    matrix = [[0.9, 0.0, 0.0], [0.7, 0.8, 0.0], [0.5, 0.6, 1.0]]
    rows = [{str(j): matrix[i][j] for j in range(i + 1)} for i in range(3)]
    assert scores.forgetting(rows) == pytest.approx(of_matrix(matrix))
