import pytest
import torch
from small_streams import labelled

from lifelong.streams import Labelled, permuted, rotate, rotated


def images(channels: int = 1, height: int = 6, width: int = 6) -> Labelled:
    source = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (8, channels, height, width), generator=source, dtype=torch.uint8)
    y = torch.arange(8) % 2
    return Labelled("noise", x[:6], y[:6], x[6:], y[6:], "ab")


def test_permutations_are_fixed_within_and_differ_between_tasks():
    x = torch.arange(12.0).repeat(5, 1)  # each row shows the permutation itself
    y = torch.zeros(5, dtype=torch.int64)
    tasks = permuted(Labelled("count", x, y, x[:2], y[:2], "a"), tasks=4, seed=2).tasks
    orders = [tuple(task.train.x[0].tolist()) for task in tasks]
    assert orders[0] == tuple(range(12))
    assert len(set(orders)) == 4
    for task, order in zip(tasks, orders, strict=True):
        assert sorted(order) == list(range(12))
        assert all(tuple(row.tolist()) == order for row in (*task.train.x, *task.test.x))
        assert task.train.y.equal(y)
    again = permuted(Labelled("count", x, y, x, y, "a"), tasks=4, seed=3).tasks
    assert tuple(again[1].train.x[0].tolist()) != orders[1]


def test_channels_are_permuted_alike():
    x = torch.arange(9).view(1, 1, 3, 3).repeat(1, 3, 1, 1)
    y = torch.zeros(1, dtype=torch.int64)
    shown = permuted(Labelled("rgb", x, y, x, y, "a"), tasks=2).tasks[1].train.x
    assert shown.shape == (1, 3, 3, 3)
    assert shown[:, 0].equal(shown[:, 1])
    assert not shown.equal(x)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [5, 6])
def test_quarter_turns_are_exact(turns, size):
    x = images(3, size, size).train_x
    assert rotate(x, 90 * turns).equal(torch.rot90(x, turns, (2, 3)))


def test_half_a_turn_of_oblong_images_is_exact_and_a_quarter_keeps_proportions():
    x = images(1, 4, 8).train_x
    assert rotate(x, 180).equal(x.flip(2, 3))
    assert rotate(x, 90)[:, :, :, 2:6].equal(torch.rot90(x[:, :, :, 2:6], 1, (2, 3)))
    assert not rotate(x, 90)[:, :, :, :2].any(), "what comes in from outside is 0"


def test_angles_of_tasks():
    assert [t.name for t in rotated(images(), 3, 90).tasks] == [
        "0 degrees",
        "45 degrees",
        "90 degrees",
    ]
    stream = rotated(images(), 2, [10, 270.5], validation=0.4)
    assert [task.name for task in stream.tasks] == ["10 degrees", "270.5 degrees"]
    for number, task in enumerate(stream.tasks):
        assert task.train.task.unique().tolist() == [number]
        assert not set(task.train.key.tolist()) & set(task.valid.key.tolist())
        assert not set(task.train.key.tolist()) & set(task.test.key.tolist())
        assert task.train.x.dtype == torch.uint8


def test_inputs_stay_as_they_were():
    data = images()
    before = data.train_x.clone()
    permuted(data, 3)
    rotated(data, 3)
    assert data.train_x.equal(before)


def test_bad_arguments_tell_the_way_out():
    with pytest.raises(ValueError, match=r"shape \(2,\); only images"):
        rotated(labelled(), 2)
    with pytest.raises(ValueError, match="3 angles for 2 tasks"):
        rotated(images(), 2, [0, 1, 2])
    for scenario in (permuted, rotated):
        with pytest.raises(ValueError, match="0 tasks"):
            scenario(images(), 0)
    y = torch.zeros(2, dtype=torch.int64)
    named = Labelled("named", {"a": torch.zeros(2, 1)}, y, {"a": torch.zeros(2, 1)}, y, "a")
    with pytest.raises(ValueError, match="not one tensor"):
        permuted(named, 2)
