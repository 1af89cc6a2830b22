import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import InvalidBatch


def batch(rows=3, **parts):
    return Batch.of(torch.arange(rows * 2.0).view(rows, 2), torch.arange(rows), **parts)


def test_of_fills_in_the_rest():
    made = batch(task=2)
    assert (len(made), made.new, made.weight) == (3, 3, None)
    assert made.task.tolist() == [2, 2, 2]
    assert made.key.tolist() == [-1, -1, -1]
    assert (made.task.dtype, made.key.dtype) == (torch.int64, torch.int64)
    each = batch(task=torch.tensor([0, 1, -1]), key=torch.tensor([7, 8, 9]))
    assert each.task.tolist() == [0, 1, -1]
    assert each.key.tolist() == [7, 8, 9]


def test_a_mapping_of_inputs_is_copied_into_a_dict():
    inputs = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    made = Batch.of(inputs, torch.tensor([0, 1]))
    assert made.x is not inputs
    inputs.clear()
    assert [name for name, _ in made.columns()] == ["x/a", "x/b", "y", "task", "key"]


@pytest.mark.parametrize(
    ("x", "y", "parts", "told"),
    [
        (torch.zeros(3, 2), torch.zeros(4), {}, "x has 3, y has 4, task has 4, key has 4"),
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, torch.zeros(3), {}, "x/b has 2"),
        (torch.zeros(3), torch.zeros(3), {"task": torch.zeros(2).long()}, "task has 2"),
        (torch.zeros(3), torch.zeros(3), {"key": torch.zeros(1).long()}, "key has 1"),
        (torch.zeros(3), torch.tensor(1.0), {}, "x has 3, y has 0"),
        (torch.zeros(0, 2), torch.zeros(0), {}, "0 rows; skip empty batches"),
        (torch.zeros(2), torch.zeros(2), {"task": torch.zeros(2)}, "task is torch.float32"),
        (torch.zeros(2), torch.zeros(2), {"key": torch.zeros(2, 1).long()}, r"shape \(2, 1\)"),
        (torch.zeros(2), torch.zeros(2), {"key": torch.zeros(2).int()}, "key is torch.int32"),
        ([1.0, 2.0], torch.zeros(2), {}, "x is of <class 'list'>; it must be a tensor"),
        ({}, torch.zeros(2), {}, r"x is a dict of \[\]"),
        ({"a": [1, 2]}, torch.zeros(2), {}, r"x is a dict of \['a'\]"),
        (torch.zeros(2), [0, 1], {}, r"y is of <class 'list'>.*torch.as_tensor\(y\)"),
        (torch.zeros(2), ["cat", "dog"], {}, r"y is of <class 'list'>; number them: .* in y\]"),
        (torch.zeros(2), torch.zeros(2), {"key": ["ann", "bob"]}, r"number them: .* in key\]"),
    ],
)
def test_what_is_no_batch_is_refused(x, y, parts, told):
    with pytest.raises(InvalidBatch, match=told):
        Batch.of(x, y, **parts)


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (torch.ones(2), "weight has 2"),
        (torch.ones(3).long(), "weight is torch.int64"),
        (torch.ones(3, 1), r"shape \(3, 1\)"),
    ],
)
def test_weights_are_checked(weight, told):
    made = batch()
    with pytest.raises(InvalidBatch, match=told):
        Batch(made.x, made.y, made.task, 3, made.key, weight).check()


@pytest.mark.parametrize("new", [-1, 4])
def test_new_rows_are_some_of_the_rows(new):
    made = batch()
    with pytest.raises(InvalidBatch, match=f"new is {new}, of 3 rows"):
        Batch(made.x, made.y, made.task, new, made.key).check()


def test_rows_by_slice_are_views_and_by_index_copies():
    made = batch()
    view = made.rows(slice(1, 3))
    view.x.zero_()
    assert made.x[1:].eq(0).all()
    picked = made.rows(torch.tensor([2, 0]))
    assert picked.y.tolist() == [2, 0]
    assert picked.new == 2
    assert made.rows(torch.tensor([True, False, True])).y.tolist() == [0, 2]


def test_rows_of_an_extended_batch_are_all_new():
    longer = batch().extended(batch(2))
    assert longer.rows(slice(None)).new == 5


def test_extension_appends_replayed_rows():
    longer = batch(3, task=1).extended(batch(2, task=0, key=torch.tensor([5, 6])))
    longer.check()
    assert (len(longer), longer.new, longer.weight) == (5, 3, None)
    assert longer.y.tolist() == [0, 1, 2, 0, 1]
    assert longer.task.tolist() == [1, 1, 1, 0, 0]
    assert longer.key.tolist() == [-1, -1, -1, 5, 6]
    assert longer.x[3:].tolist() == [[0.0, 1.0], [2.0, 3.0]]


def weighted(made, weight):
    return Batch(made.x, made.y, made.task, made.new, made.key, torch.tensor(weight))


def test_missing_weights_count_as_one():
    light = weighted(batch(2), [0.5, 0.0])
    assert light.extended(batch(1)).weight.tolist() == [0.5, 0.0, 1.0]
    assert batch(1).extended(light).weight.tolist() == [1.0, 0.5, 0.0]
    assert light.extended(light).weight.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_inputs_of_another_kind_cannot_be_appended():
    named = Batch.of({"a": torch.zeros(2), "b": torch.zeros(2)}, torch.tensor([0, 1]))
    other = Batch.of({"a": torch.zeros(2), "c": torch.zeros(2)}, torch.tensor([0, 1]))
    with pytest.raises(InvalidBatch, match=r"named \['a', 'c'\] to inputs named \['a', 'b'\]"):
        named.extended(other)
    with pytest.raises(InvalidBatch, match=r"of one tensor to inputs named"):
        named.extended(batch(2))
    assert sorted(named.extended(named).x) == ["a", "b"]
    assert len(named.extended(named).x["a"]) == 4


def test_to_moves_everything_and_copies_nothing_that_is_there():
    made = weighted(batch(3).extended(batch(2)), [1.0, 1, 1, 0, 0])
    assert made.to(torch.device("cpu")) is made
    moved = made.to(torch.device("meta"))
    assert {column.device.type for _, column in moved.columns()} == {"meta"}
    assert (moved.new, len(moved)) == (3, 5)
    assert moved.weight is not None


NAMES = st.text(st.characters(codec="utf-8"), max_size=5)


@given(
    rows=st.integers(1, 5),
    inputs=st.none() | st.dictionaries(NAMES, st.integers(0, 3), min_size=1, max_size=3),
    with_weight=st.booleans(),
)
@settings(deadline=None)
def test_columns_and_back(rows, inputs, with_weight):
    x = (
        torch.rand(rows, 2)
        if inputs is None
        else {name: torch.rand(rows, width) for name, width in inputs.items()}
    )
    made = Batch.of(x, torch.arange(rows), task=3)
    if with_weight:
        made = Batch(made.x, made.y, made.task, rows, made.key, torch.rand(rows))
    names = [name for name, _ in made.columns()]
    assert len(set(names)) == len(names)
    back = batch_of_columns({**dict(made.columns()), "logits": torch.zeros(rows)})
    assert [name for name, _ in back.columns()] == names
    assert all(a is b for (_, a), (_, b) in zip(made.columns(), back.columns(), strict=True))
    assert back.new == rows


def test_a_batch_shows_its_columns_and_no_values():
    batch = Batch.of({"a": torch.zeros(2, 3), "b": torch.zeros(2)}, torch.tensor([0, 1]))
    shown = "Batch(2 rows, 2 new, x/a (2, 3) float32, x/b (2,) float32, y (2,) int64)"
    assert repr(batch) == shown
    assert ", 2 new," in repr(batch.extended(batch))
