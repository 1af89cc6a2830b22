import pytest
import torch
from torch import nn

from lifelong.core.batch import Batch
from lifelong.core.task import Growing, HasData, TaskSpec


@pytest.mark.parametrize("id", [-1, 1.0, "a", None])
def test_a_task_id_is_a_whole_number(id):
    with pytest.raises(ValueError, match=f"task id {id!r}; it must be an integer of 0 or more"):
        TaskSpec(id)


def test_specs_compare_by_value():
    assert TaskSpec(1, (2, 3)) == TaskSpec(1, (2, 3))
    assert TaskSpec(1) != TaskSpec(1, (2,))
    assert len({TaskSpec(1), TaskSpec(1)}) == 1


def test_what_grows_and_what_has_data_is_told_by_its_methods():
    class Head(nn.Module):
        def grow(self, task):
            return []

    class Task:
        data = (Batch.of(torch.zeros(1), torch.zeros(1)),)

    assert isinstance(Head(), Growing)
    assert not isinstance(nn.Linear(1, 1), Growing)
    assert isinstance(Task(), HasData)
    assert not isinstance([], HasData)


def test_a_class_is_named_once():
    with pytest.raises(ValueError, match=r"task 1 has classes \[1, 1\]; name each once"):
        TaskSpec(1, (1, 1))
