import inspect
from types import SimpleNamespace
from typing import Never

import numpy as np
import pytest
import torch
from small_learners import batches, learner, whole

from lifelong import Learner, Replay
from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.received import keys_of
from lifelong.core.task import TaskSpec


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (torch.tensor([101.5]), r"keys are of torch\.float32; the ids of rows are integers"),
        (torch.tensor([101.0]), r"keys are of torch\.float32"),
        (np.array([101.5]), r"keys are of torch\.float64"),
        ([101.5], r"keys are of torch\.float32"),
        (True, r"keys are of torch\.bool"),
        ([True, False], r"keys are of torch\.bool"),
        (["a"], r"keys are of \['a'\]; the ids of rows are integers: give those"),
        ([10**30], "keys are of "),
        (None, "keys are of None"),
        ({3, 4}, r"keys are of \{3, 4\}"),
    ],
)
def test_only_integers_name_rows(keys, told):
    taught = learner(strategies=[Replay(50)])
    batch = batches(1)[0]
    taught.observe(Batch.of(batch.x, batch.y, key=torch.arange(100, 108)))
    with pytest.raises(ValueError, match=told):
        taught.forget(keys)
    with pytest.raises(ValueError, match=told):
        taught.strategies[0].memory.forget(keys)
    assert sorted(taught.strategies[0].memory.all()["key"].tolist()) == [*range(100, 108)]


def test_rows_that_were_given_no_key_cannot_be_named():
    taught = learner(strategies=[Replay(50)])
    batch = batches(1)[0]
    taught.observe(Batch.of(batch.x, batch.y, key=torch.arange(100, 108)))
    with pytest.raises(ValueError, match=r"-1 is among the keys, .* given none.*key=ids"):
        taught.forget([101, -1])
    assert len(taught.strategies[0].memory) == 8


@pytest.mark.parametrize(
    "keys",
    [[3, 4], (3, 4), range(3, 5), np.array([3, 4]), torch.tensor([3, 4], dtype=torch.int32)],
)
def test_integers_of_any_kind_become_ids(keys):
    ids = keys_of(keys)
    assert (ids.dtype, ids.tolist()) == (torch.int64, [3, 4])
    assert keys_of([]).tolist() == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda taught, b: taught.observe((b.x, b.y)), "object of type tuple, not a Batch; make"),
        (lambda taught, b: taught.observe(b.x), r"type Tensor, not a Batch; make one: Batch\.of"),
        (lambda taught, b: taught.observe(None), "object of type NoneType, not a Batch"),
        (lambda taught, b: taught.observe(b.x, b.y), r"takes one batch, not 2: Batch\.of\(x, y\)"),
        (lambda taught, b: taught.end_task([(b.x, b.y)]), "object of type tuple, not a Batch"),
    ],
)
def test_what_is_no_batch_is_said_to_be_none(call, told):
    taught = learner(strategies=[Replay(5)])
    taught.begin_task(0)
    before = whole(taught)
    with pytest.raises(InvalidBatch, match=told):
        call(taught, batches(1)[0])
    assert whole(taught) == before


@pytest.mark.parametrize("id", [np.int64(1), np.uint8(1), torch.tensor(1), torch.tensor([1])])
def test_integers_of_any_kind_name_a_task(id):
    taught = learner()
    taught.begin_task(id)
    assert type(taught.current) is int
    assert taught.tasks == [TaskSpec(1)]
    x = batches(1)[0].x
    assert torch.equal(taught.predict(x, np.int64(1)), taught.predict(x, 1))


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (None, "task is None; give an id, such as 0, or what has an id and classes: TaskSpec"),
        ("1", "task is '1'; give an id"),
        (1.0, r"task is 1\.0; give an id"),
        (torch.tensor(1.5), r"task is tensor\(1\.5000\); give an id"),
        (torch.tensor([0, 1]), r"task is tensor\(\[0, 1\]\); give an id"),
        (SimpleNamespace(id=1), r"task is namespace\(id=1\); give an id"),
        (SimpleNamespace(id=1, classes=None), "task 1 has classes None; name them"),
        (SimpleNamespace(id="b", classes=()), "task id 'b'; it must be an integer of 0 or more"),
        (TaskSpec, r"task is the class TaskSpec; give an instance: TaskSpec\(0, classes="),
    ],
)
def test_what_is_no_task_is_said_to_be_none(task, told):
    taught = learner()
    with pytest.raises(ValueError, match=told) as error:
        taught.begin_task(task)
    assert "\n" not in str(error.value)
    assert (taught.tasks, taught.current) == ([], None)


@pytest.mark.parametrize(
    ("x", "kind", "told"),
    [
        ({}, InvalidBatch, r"x is a dict of \[\]; it must be a tensor, or a dict of one or more"),
        ({"x": [1.0]}, InvalidBatch, r"x is a dict of \['x'\]; it must be a tensor"),
        (None, InvalidBatch, "x is of <class 'NoneType'>; it must be a tensor"),
        (3, InvalidBatch, "x is of <class 'int'>; it must be a tensor"),
        (torch.tensor(1.0), InvalidBatch, r"x is a single number; give rows.* x\.reshape\(1, -1"),
        (torch.zeros(0, 6), InvalidBatch, "a batch of 0 rows"),
    ],
)
def test_what_is_no_input_is_not_asked_about(x, kind, told):
    with pytest.raises(kind, match=told):
        learner().predict(x)


@pytest.mark.parametrize("rows", [0, -1, 1.5, None, "512"])
def test_rows_are_asked_about_one_at_a_time_at_least(rows):
    with pytest.raises(ValueError, match=f"rows is {rows!r}; how many to compute at once must be"):
        learner().predict(torch.zeros(3, 6), rows=rows)


def test_rows_are_asked_about_a_few_at_a_time_of_any_integer():
    taught, x = learner(), torch.randn(5, 6)
    torch.testing.assert_close(taught.predict(x, rows=np.int64(2)), taught.predict(x))


def test_type_checkers_let_nothing_more_be_observed():
    assert inspect.signature(Learner.observe).parameters["more"].annotation in (Never, "Never")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (batches(1)[0], r"data is a Batch; give a list of batches, such as \[batch\]"),
        (3, "data is a int; give a list of batches"),
        ([], "no batches to consolidate; give those that were learned from"),
    ],
)
def test_consolidation_wants_batches(data, told):
    with pytest.raises(ValueError, match=told):
        learner().consolidate(data)
