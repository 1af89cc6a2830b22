import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_streams import labelled

from lifelong.core.errors import EmptyTask
from lifelong.streams import (
    Labelled,
    blurry,
    class_incremental,
    domain_incremental,
    task_incremental,
)
from lifelong.streams.split import at_most, stratified

SPLITS = [class_incremental, task_incremental, domain_incremental, blurry]


@pytest.mark.parametrize("scenario", SPLITS)
@pytest.mark.parametrize("class_order", ["natural", "random"])
def test_no_row_leaks_and_none_is_lost(scenario, class_order):
    data = labelled()
    stream = scenario(data, 3, class_order=class_order, validation=0.2, seed=1)
    parts = [rows for t in stream.tasks for rows in (t.train, t.valid, t.test)]
    keys = torch.cat([rows.key for rows in parts])
    assert keys.sort().values.equal(torch.arange(6 * 25))
    assert all(rows.x[:, 0].long().equal(rows.key) for rows in parts), "a key is its row's number"
    assert [len(t.valid) for t in stream.tasks] == [8, 8, 8]
    for number, task in enumerate(stream.tasks):
        assert set(task.train.task.tolist()) == {number}
        assert set(task.test.task.tolist()) == {number}
        assert set(task.train.y.tolist()) <= set(task.classes)


@pytest.mark.parametrize("scenario", [class_incremental, task_incremental])
@pytest.mark.parametrize("class_order", ["natural", "random", [5, 0, 4, 1, 3, 2]])
def test_labels_are_numbered_in_order_of_arrival(scenario, class_order):
    stream = scenario(labelled(), 3, class_order=class_order)
    for number, task in enumerate(stream.tasks):
        assert task.classes == (2 * number, 2 * number + 1)
        for rows in (task.train, task.test):
            for y, original in zip(rows.y.tolist(), rows.x[:, 1].long().tolist(), strict=True):
                assert y in task.classes
                assert stream.class_names[y] == "abcdef"[original]
        assert task.name == ", ".join(stream.class_names[c] for c in task.classes)
    if class_order == "natural":
        assert stream.class_names == tuple("abcdef")


def test_only_task_incremental_tells_the_task():
    known = [scenario(labelled(), 3).task_known for scenario in SPLITS]
    assert known == [False, True, False, False]


def test_domain_labels_count_within_the_task():
    stream = domain_incremental(labelled(), [(4, 1), (0, 2, 5)])
    assert stream.class_names == ("e/a", "b/c", "f")
    assert [task.classes for task in stream.tasks] == [(0, 1), (0, 1, 2)]
    for task, group in zip(stream.tasks, [(4, 1), (0, 2, 5)], strict=True):
        assert torch.tensor(group)[task.train.y].equal(task.train.x[:, 1].long())


def test_unequal_and_partial_groups():
    stream = class_incremental(labelled(), [(3,), (0, 5)])
    assert [task.classes for task in stream.tasks] == [(0,), (1, 2)]
    assert stream.class_names == ("d", "a", "f")
    assert [len(task.train) for task in stream.tasks] == [20, 40]


def test_seeds_choose_and_repeat():
    def order(seed):
        stream = class_incremental(labelled(), 3, class_order="random", seed=seed, validation=0.1)
        keys = [batch.key.tolist() for task in stream for batch in task]
        return stream.class_names, stream.tasks[0].valid.key.tolist(), keys

    assert order(0) == order(0)
    assert all(a != b for a, b in zip(order(0), order(1), strict=True))


def test_limit_bounds_rows_of_each_class():
    stream = class_incremental(labelled(), 3, limit=4, validation=0.25)
    for task in stream.tasks:
        counts = [rows.y.bincount()[-2:].tolist() for rows in (task.train, task.valid, task.test)]
        assert counts == [[3, 3], [1, 1], [4, 4]]
    assert class_incremental(labelled(), 3).tasks[0].valid is None


def test_schedule_is_passed_on():
    stream = class_incremental(labelled(), 3, batch=10, iterations=7, seed=4)
    assert (stream.schedule.batch, stream.schedule.seed) == (10, 4)
    assert [len(task) for task in stream.tasks] == [7, 7, 7]


@pytest.mark.parametrize("mixing", [0.0, 0.1, 0.5])
def test_blurry_share(mixing):
    stream = blurry(labelled(), 3, mixing=mixing)
    for number, task in enumerate(stream.tasks):
        own = (task.train.y // 2 == number).float().mean().item()
        assert own == pytest.approx(1 - mixing)
        assert len(task.train) == 40
        assert set(task.test.y.tolist()) == {2 * number, 2 * number + 1}
        assert set(task.classes) >= set(task.train.y.tolist())
    if mixing == 0.5:
        assert stream.tasks[0].classes == tuple(range(6))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"tasks": 4}, r"6 classes of letters cannot be split in 4 tasks evenly.*\[1, 2, 3, 6\]"),
        ({"tasks": 0}, "cannot be split in 0"),
        ({"tasks": [(0, 1), (1,)]}, r"see \[1\]"),
        ({"tasks": [(0, 9)]}, r"see \[9\]"),
        ({"tasks": [(0,), ()]}, "one class or more"),
        ({"tasks": [(0,)], "class_order": "random"}, "leave it out"),
        ({"tasks": 3, "class_order": "sorted"}, "'natural', 'random' or a list"),
        ({"tasks": 3, "class_order": [0, 1]}, "list of all 6"),
        ({"tasks": 3, "validation": 1.0}, "less than 1"),
        ({"tasks": 3, "limit": 0}, "limit of 0"),
    ],
)
@pytest.mark.parametrize("scenario", SPLITS)
def test_bad_arguments_tell_the_way_out(scenario, arguments, told):
    with pytest.raises(ValueError, match=told):
        scenario(labelled(), **arguments)


def test_blurry_refuses_what_cannot_be_mixed():
    with pytest.raises(ValueError, match="mixing is 1"):
        blurry(labelled(), 3, mixing=1)
    with pytest.raises(ValueError, match="1 task cannot be mixed"):
        blurry(labelled(), 1)


def test_a_class_without_rows_is_told():
    x, y = torch.zeros(2, 1), torch.tensor([0, 2])
    with pytest.raises(EmptyTask, match="task 'b'"):
        class_incremental(Labelled("gap", x, y, x, y, "abc"), 3)


def test_labels_must_be_classes():
    x, y = torch.zeros(2, 1), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="labels from 0 to 2, but there are 2 class names"):
        Labelled("short", x, y, x, y, "ab")
    with pytest.raises(ValueError, match="it must be int64"):
        Labelled("floats", x, y.float(), x, y, "abc")
    with pytest.raises(
        ValueError, match=r"train_y of mine is of <class 'numpy.ndarray'>.*as_tensor"
    ):
        Labelled("mine", x, y.numpy(), x, y, "abc")
    with pytest.raises(
        ValueError, match=r"test_x of mine is of <class 'numpy.ndarray'>.*as_tensor"
    ):
        Labelled("mine", x, y, x.numpy(), y, "abc")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 0.95), st.integers(1, 9))
def test_stratified_choices(labels, share, limit):
    y = torch.tensor(labels)
    kept, aside = stratified(y, share, torch.Generator())
    assert torch.cat((kept, aside)).sort().values.equal(torch.arange(len(y)))
    expected = torch.floor(y.bincount().double() * share + 1e-9).long()
    assert y[aside].bincount(minlength=len(expected)).equal(expected)
    chosen = at_most(y, limit, torch.Generator())
    assert y[chosen].bincount().equal(y.bincount().clamp(max=limit))
