import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_streams import delivered, stream

from lifelong.core.errors import EmptyTask, InvalidBatch, StateMismatch
from lifelong.core.task import HasData
from lifelong.streams import Rows, Schedule, Stream, Task, cumulative, joint

schedules = st.fixed_dictionaries(
    {"batch": st.integers(1, 6), "seed": st.integers(0, 5), "shuffle": st.booleans()},
    optional={"drop_last": st.booleans()},
) | st.fixed_dictionaries({"batch": st.integers(1, 6), "iterations": st.integers(1, 9)})
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@settings(max_examples=60, deadline=None)
@given(sizes, schedules, st.integers(1, 3), st.data())
def test_resumes_at_every_position(sizes, schedule, epochs, data):
    if "iterations" not in schedule:
        schedule = {**schedule, "epochs": epochs}
    whole = delivered(stream(sizes, **schedule))
    stop = data.draw(st.integers(0, len(whole)))
    interrupted, before, state = stream(sizes, **schedule), [], None
    for task in interrupted:
        for batch in task:
            if len(before) == stop:
                break
            before.append((task.id, batch.key.tolist()))
            state = interrupted.state_dict()
        if len(before) == stop:
            break
    resumed = stream(sizes, **schedule)
    if state is not None:
        resumed.load_state_dict(json.loads(json.dumps(state)))
    assert before + delivered(resumed) == whole


def test_a_delivered_task_comes_again_to_be_ended():
    first = stream((4, 4), batch=2)
    for task in first:
        for _ in task:
            pass
        break
    again = stream((4, 4), batch=2)
    again.load_state_dict(first.state_dict())
    assert again.cursor == {"task": 0, "batch": 2}
    assert [(task.id, len(list(task))) for task in again] == [(0, 0), (1, 2)]


def test_a_state_between_tasks_and_at_the_end():
    first = stream((4, 4), batch=2)
    loop = iter(first)
    list(next(loop))
    next(loop)
    assert first.cursor == {"task": 1, "batch": 0}
    assert list(loop) == []
    assert first.cursor == {"task": 2, "batch": 0}
    again = stream((4, 4), batch=2)
    again.load_state_dict(first.state_dict())
    assert delivered(again) == []
    assert delivered(again) == delivered(first), "a loop without a loaded state starts over"


def test_loading_twice_and_saving_before_the_loop_keeps_the_cursor():
    one, two, three = (stream(batch=2) for _ in range(3))
    task = next(iter(one))
    next(iter(task))
    two.load_state_dict(one.state_dict())
    assert two.state_dict() == one.state_dict()
    three.load_state_dict(two.state_dict())
    assert delivered(three) == delivered(stream(batch=2))[1:]


def test_a_live_task_goes_on_where_it_was_left_and_refuses_a_second_pass():
    for task in stream((6,), batch=2):
        head = [next(iter(task)).key.tolist()]
        assert head + [batch.key.tolist() for batch in task] == [
            keys for _, keys in delivered(stream((6,), batch=2))
        ]
        with pytest.raises(RuntimeError, match="give the stream `epochs`"):
            iter(task)


def test_tasks_and_data_move_no_cursor():
    source = stream(batch=2)
    for task in source:
        assert isinstance(task, HasData)
        keys = torch.cat([batch.key for batch in task.data])
        assert keys.equal(task.train.key)
        assert [len(list(source.tasks[1])) for _ in range(2)] == [len(source.tasks[1])] * 2
        assert source.cursor["batch"] == 0


@given(sizes, st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_each_epoch_delivers_each_row_once(sizes, batch, epochs):
    for task in stream(sizes, batch=batch, epochs=epochs):
        keys = torch.cat([each.key for each in task]).view(epochs, -1)
        assert all(keys[epoch].sort().values.equal(task.train.key) for epoch in range(epochs))


@given(sizes, st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_iterations_are_exact_and_of_full_batches(sizes, batch, iterations):
    for task in stream(sizes, batch=batch, iterations=iterations):
        lengths = [len(each) for each in task]
        assert lengths == [min(batch, len(task.train))] * iterations == [lengths[0]] * len(task)


def test_drop_last_and_order_of_time():
    assert [len(keys) for _, keys in delivered(stream((7, 3), batch=4, drop_last=True))] == [4, 3]
    assert delivered(stream((4,), batch=3, shuffle=False)) == [(0, [0, 1, 2]), (0, [3])]


def test_order_depends_on_seed_task_and_epoch_alone():
    schedule = Schedule(seed=1)
    orders = [
        Schedule(seed=seed).order(task, epoch, 50)
        for seed in (0, 1)
        for task in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 8
    assert schedule.order(1, 1, 50).equal(orders[-1])


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = delivered(stream())
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    assert delivered(stream()) == first


def test_batches_are_copies_and_carry_task_and_key():
    source = stream((4,), batch=4)
    for task in source:
        for batch in task:
            batch.check()
            assert batch.x.flatten().long().equal(batch.key)
            assert batch.new == 4
            batch.x.zero_()
        assert task.train.x.flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"batch": 3}, "batch is 2 there and 3 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"epochs": 2}, "epochs is 1 there and 2 here"),
        ({"iterations": 4}, "iterations is not set there and 4 here"),
        ({"name": "other"}, "name is stream there and other here"),
        ({"drop_last": True}, "drop_last is 0 there and 1 here"),
    ],
)
def test_a_state_of_another_schedule_is_refused(other, told):
    state = stream(batch=2).state_dict()
    with pytest.raises(StateMismatch, match=told):
        stream(**{"batch": 2, **other}).load_state_dict(state)


def test_a_state_of_other_rows_or_damaged_is_refused():
    state = stream((7, 3)).state_dict()
    with pytest.raises(StateMismatch, match=r"rows is \[7, 3\] there and \[3, 7\] here"):
        stream((3, 7)).load_state_dict(state)
    swapped = stream((7, 3))
    swapped.tasks = (swapped.tasks[0], swapped.tasks[1])
    moved = Stream(
        [
            Task(
                t.id, t.classes, t.name, t.train.subset(torch.arange(len(t.train)).flip(0)), t.test
            )
            for t in swapped.tasks
        ]
    )
    with pytest.raises(StateMismatch, match="keys is"):
        moved.load_state_dict(state)
    with pytest.raises(StateMismatch, match="needs batch, schedule and task"):
        stream((7, 3)).load_state_dict({"task": 0})
    for damaged in ({"task": 5}, {"task": -1}, {"batch": 99}, {"batch": -1}):
        with pytest.raises(StateMismatch, match="the cursor is at"):
            stream((7, 3)).load_state_dict({**state, **damaged})


def test_bad_streams_are_refused():
    with pytest.raises(EmptyTask, match="'task 1' has no training rows"):
        stream((3, 0))
    with pytest.raises(ValueError, match="0 tasks"):
        Stream([])
    task = stream((3,)).tasks[0]
    with pytest.raises(ValueError, match="give each task its own"):
        Stream([task, task])
    for options in ({"batch": 0}, {"epochs": 0}, {"iterations": 0}, {"batch": 2.5}):
        with pytest.raises(ValueError, match="integer of 1 or more"):
            Schedule(**options)
    with pytest.raises(ValueError, match="give one of them"):
        Schedule(epochs=2, iterations=3)


def test_rows_of_named_inputs():
    x = {"a": torch.arange(4.0), "b": torch.ones(4, 2)}
    rows = Rows.of(x, torch.zeros(4, dtype=torch.int64))
    batch = rows.take(torch.tensor([3, 1]))
    assert batch.x["a"].tolist() == [3, 1]
    assert batch.x["b"].shape == (2, 2)
    both = Rows.concatenate([rows, rows.subset(slice(2))])
    assert both.x["a"].tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(InvalidBatch, match="differ"):
        Rows.concatenate([rows, Rows.of(torch.zeros(1), torch.zeros(1))])
    with pytest.raises(InvalidBatch, match="differ in rows: x has 3, y has 2"):
        Rows.of(torch.zeros(3), torch.zeros(2))
    with pytest.raises(InvalidBatch, match="key is"):
        Rows(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    with pytest.raises(ValueError, match="1 or more"):
        rows.batches(0)


def test_joint_has_all_rows_and_the_original_tests():
    source = stream((7, 3, 10), batch=2, epochs=2)
    bound = joint(source)
    (task,) = bound.tasks
    assert task.train.key.tolist() == list(range(20))
    assert task.train.task.bincount().tolist() == [7, 3, 10]
    assert [rows.key.tolist() for rows in bound.tests] == [[1000], [1001], [1002]]
    assert len(task) == 20
    assert len(joint(source, epochs=1).tasks[0]) == 10
    assert len(joint(stream(iterations=5)).tasks[0]) == 15
    assert len(joint(source, iterations=4).tasks[0]) == 4


def test_cumulative_repeats_what_came_before():
    source = stream((7, 3, 10), batch=2)
    bound = cumulative(source)
    assert [task.train.key.tolist() for task in bound.tasks] == [
        list(range(end)) for end in (7, 10, 20)
    ]
    assert [task.test.key.tolist() for task in bound.tasks] == [[1000], [1001], [1002]]
    assert [len(task) for task in cumulative(source, iterations=4).tasks] == [4, 4, 4]
    storages = {task.train.x.untyped_storage().data_ptr() for task in bound.tasks}
    assert len(storages) == 1, "the rows are held once"
