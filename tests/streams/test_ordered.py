from itertools import pairwise

import pytest
import torch

from lifelong import Learner
from lifelong.core.errors import EmptyTask
from lifelong.nets import MLP
from lifelong.streams import Labelled, in_order


def prices(rows=100):
    x = torch.arange(float(rows))[:, None]
    y = (torch.arange(rows) // 7) % 2
    tested = torch.arange(rows) % 5 == 2
    return Labelled("prices", x[~tested], y[~tested], x[tested], y[tested], ("down", "up"))


def test_each_row_is_in_one_stretch_and_time_goes_on():
    stream = in_order(prices(), 4)
    learned = [task.train.x.flatten() for task in stream.tasks]
    tested = [task.test.x.flatten() for task in stream.tasks]
    assert torch.equal(torch.cat(learned), prices().train_x.flatten())
    assert torch.equal(torch.cat(tested), prices().test_x.flatten())
    ends = [torch.cat(pair).aminmax() for pair in zip(learned, tested, strict=True)]
    assert all(one.max < later.min for one, later in pairwise(ends))
    assert [task.name for task in stream.tasks][-1] == "75 to 100 %"
    assert not stream.task_known


def test_rows_say_of_which_task_they_are_and_keep_their_keys():
    for t, task in enumerate(in_order(prices(), 3, validation=0.25).tasks):
        assert task.valid is not None
        for rows in (task.train, task.valid, task.test):
            assert rows.task.unique().tolist() == [t]
        assert sorted(task.train.x.flatten().tolist()) == task.train.x.flatten().tolist()
        assert not set(task.train.key.tolist()) & set(task.valid.key.tolist())


def test_the_classes_of_a_stretch_are_those_in_it():
    y = torch.tensor([0, 0, 2, 2, 1, 1])
    x = torch.zeros(6, 1)
    stream = in_order(Labelled("three", x, y, x, y, "abc"), 3)
    assert [task.classes for task in stream.tasks] == [(0,), (2,), (1,)]
    assert list(stream.class_names) == ["a", "b", "c"]


def test_a_learner_learns_it():
    net = MLP(1, hidden=(4,), outputs=2)
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=1e-4))
    for task in in_order(prices(), 2, batch=16):
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
    assert learner.steps == 6


def test_a_limit_leaves_stretches_where_they_are():
    x = torch.arange(2000.0)[:, None]
    y = (torch.arange(2000) >= 1800).long()
    tested = torch.arange(2000) % 5 == 2
    late = Labelled("late", x[~tested], y[~tested], x[tested], y[tested], ("old", "new"))
    for t, task in enumerate(in_order(late, 5, limit=20, validation=0.1).tasks):
        assert task.classes == ((0,) if t < 4 else (0, 1))
        for rows in (task.train, task.valid, task.test):
            assert (rows.x.flatten() // 400).unique().tolist() == [t]
        assert task.train.y.bincount().max() == task.test.y.bincount().max() == 20


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="tasks is 0; give 1 or more"):
        in_order(prices(), 0)
    untested = Labelled("none", torch.zeros(9, 1), torch.zeros(9).long(), torch.zeros(0, 1),
                        torch.zeros(0).long(), ("a",))  # fmt: skip
    with pytest.raises(ValueError, match=r"none has no test rows.*aside: test=0\.2"):
        in_order(untested, 3)
    with pytest.raises(EmptyTask, match="prices has 4 training and 1 test rows, too few for 3"):
        in_order(prices(5), 3)
