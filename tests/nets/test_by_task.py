import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifelong.core.errors import UnknownTask
from lifelong.core.task import TaskSpec
from lifelong.nets.by_task import each_task, is_newest

KNOWN = [4, 9, 2]


@given(st.lists(st.sampled_from([-1, 2, 4, 9]), min_size=1, max_size=12))
def test_each_row_gets_its_own_tasks_answer_in_its_own_place(ids):
    x = torch.arange(float(len(ids)))
    asked = []

    def run(place, rows):
        asked.append(place)
        return 100.0 * place + (x if rows is None else x[rows])

    found = each_task(torch.tensor(ids), KNOWN, run)
    places = [2 if id == -1 else KNOWN.index(id) for id in ids]
    assert found.tolist() == [100.0 * place + i for i, place in enumerate(places)]
    assert len(asked) == len(set(ids))  # once a task, however many rows


def test_rows_of_one_task_are_not_copied():
    seen = []
    for task in (None, torch.tensor([9, 9])):
        each_task(task, KNOWN, lambda place, rows: seen.append((place, rows)) or torch.zeros(2))
    assert seen == [(2, None), (1, None)]


def test_gradients_reach_the_rows_they_come_from():
    x = torch.ones(3, requires_grad=True)
    each_task(torch.tensor([9, 4, 9]), KNOWN, lambda place, rows: (place + 1) * x[rows]).backward(
        torch.tensor([1.0, 10.0, 100.0])
    )
    assert x.grad.tolist() == [2.0, 10.0, 200.0]


def test_unknown_tasks_are_named():
    with pytest.raises(UnknownTask, match=r"task 3, 5 is not known .* grown for \[4, 9, 2\]"):
        each_task(torch.tensor([4, 5, 3]), KNOWN, lambda place, rows: torch.zeros(1))
    with pytest.raises(UnknownTask, match="grown for no task yet; begin one"):
        each_task(None, [], lambda place, rows: torch.zeros(1))


def test_an_old_task_cannot_begin_again():
    assert not is_newest([], TaskSpec(0))
    assert is_newest(KNOWN, TaskSpec(2))
    with pytest.raises(ValueError, match="task 9 is frozen since task 2 began"):
        is_newest(KNOWN, TaskSpec(9))
