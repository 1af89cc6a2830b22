from __future__ import annotations

import pytest
import torch
from torch import nn

from lifelong import Batch, Learner
from lifelong.core.errors import InvalidBatch
from lifelong.core.intake import Intake


@pytest.fixture
def learner():
    net = nn.Linear(3, 2)
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.1))


def rows(count=4, task=-1):
    return Batch.of(torch.ones(count, 3), torch.zeros(count, dtype=torch.int64), task)


def test_rows_that_do_not_say_their_task_are_the_open_ones(learner):
    intake = Intake(learner)
    assert intake.take(rows()).task.tolist() == [0] * 4
    learner.begin_task(3)
    assert intake.take(rows()).task.tolist() == [3] * 4
    assert intake.take(rows(2)).task.tolist() == [3] * 2
    mixed = rows(3, torch.tensor([1, -1, 2]))
    assert intake.take(mixed).task.tolist() == [1, 3, 2]
    assert mixed.task.tolist() == [1, -1, 2]


def test_a_batch_that_is_as_it_should_be_is_given_as_it_is(learner):
    batch = rows(task=1)
    assert Intake(learner).take(batch) is batch


def test_what_is_written_into_the_tasks_reaches_no_other_batch(learner):
    learner.begin_task(0)
    intake = Intake(learner)
    first, second = intake.take(rows()), intake.take(rows())
    second.task.numpy()[:] = 7
    assert first.task.tolist() == [0] * 4
    assert intake.take(rows()).task.tolist() == [0] * 4


def test_tasks_are_told_in_inference_mode_too(learner):
    intake = Intake(learner)
    with torch.inference_mode():
        assert intake.take(rows()).task.tolist() == [0] * 4
        assert intake.take(rows()).task.tolist() == [0] * 4


def test_after_a_task_has_ended_rows_have_to_say_theirs(learner):
    learner.begin_task(0)
    learner.observe(rows())
    learner.end_task([rows()])
    intake = Intake(learner)
    with pytest.raises(InvalidBatch, match="no task is open since task 0 ended"):
        intake.take(rows(3, torch.tensor([0, -1, 0])))
    assert intake.take(rows(task=0)).task.tolist() == [0] * 4


def test_rows_are_looked_at_each_time_that_one_iterates(learner):
    batch = rows(task=0)
    taken = Intake(learner).all_of([batch])
    assert [len(found) for found in taken] == [4]
    batch.x[2, 1] = torch.nan
    with pytest.raises(InvalidBatch, match="row"):
        list(taken)


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": torch.zeros(4)},
        {"key": torch.zeros(3, dtype=torch.int64)},
        {"new": 5},
        {"weight": torch.ones(4, dtype=torch.int64)},
        {"weight": torch.ones(4, 1)},
        {"x": torch.tensor(1.0)},
        {"x": {"a": torch.zeros(4, 2), "b": torch.zeros(3)}},
        {"y": torch.tensor(1)},
    ],
)
def test_columns_that_do_not_fit_together_are_refused(learner, wrong):
    batch = rows(task=0)
    columns = {"x": batch.x, "y": batch.y, "task": batch.task, "new": 4, "key": batch.key, **wrong}
    with pytest.raises(InvalidBatch):
        Intake(learner).take(Batch(**columns))
