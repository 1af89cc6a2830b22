import math

import pytest
import torch

from lifelong.streams import Drift, gaussians


def means(stream, start, stop, label=0):
    rows = stream.tasks[0].train
    part = rows.x[start:stop]
    return part[rows.y[start:stop] == label].mean(0)


@pytest.mark.parametrize(
    ("kind", "at", "drift"),
    [
        ("none", (0.5,), ()),
        ("abrupt", (0.25, 0.5), (Drift(1000, 1000), Drift(2000, 2000))),
        ("gradual", (0.5,), (Drift(2000, 2800),)),
        ("incremental", (0.5,), (Drift(2000, 2800),)),
        ("recurring", (0.25, 0.5), (Drift(1000, 1000), Drift(2000, 2000))),
    ],
)
def test_change_points_are_told(kind, at, drift):
    assert gaussians(4000, kind=kind, at=at).drift == drift


@pytest.mark.parametrize("kind", ["abrupt", "gradual", "incremental"])
def test_means_move_by_the_magnitude(kind):
    stream = gaussians(8000, kind=kind, magnitude=5, at=(0.4,), duration=0.2, seed=3)
    moved = means(stream, 4800, 8000) - means(stream, 0, 3200)
    assert moved.norm().item() == pytest.approx(5, abs=0.2)


def test_without_drift_nothing_moves():
    stream = gaussians(8000, kind="none")
    assert (means(stream, 0, 4000) - means(stream, 4000, 8000)).norm() < 0.2


def test_recurring_comes_back():
    stream = gaussians(8000, kind="recurring", at=(0.25, 0.5), magnitude=5)
    first, second, third = (
        means(stream, 0, 2000),
        means(stream, 2000, 4000),
        means(stream, 4000, 8000),
    )
    assert (first - second).norm() > 4
    assert (first - third).norm() < 0.2


def test_gradual_mixes_and_incremental_moves():
    options = {"magnitude": 20, "at": (0.4,), "duration": 0.2, "classes": 1, "seed": 1}
    for kind, spread in (("gradual", True), ("incremental", False)):
        stream = gaussians(8000, kind=kind, **options)
        x, low, high = stream.tasks[0].train.x, means(stream, 0, 3200), means(stream, 4800, 8000)
        middle = x[3900:4100]
        near = torch.minimum((middle - low).norm(dim=1), (middle - high).norm(dim=1))
        assert (near < 5).all().item() is spread


def test_rotation_turns_about_0():
    stream = gaussians(8000, motion="rotation", magnitude=90, separation=6)
    first, second = means(stream, 0, 4000), means(stream, 4000, 8000)
    assert second.tolist() == pytest.approx([-first[1].item(), first[0].item()], abs=0.25)
    assert math.isclose(first.norm().item(), 6, abs_tol=0.2)


def test_tasks_are_cut_in_order_of_time():
    stream = gaussians(100, tasks=3, batch=10)
    assert [len(task.train) for task in stream.tasks] == [33, 34, 33]
    keys = [key for task in stream for batch in task for key in batch.key.tolist()]
    assert keys == list(range(100))
    tests = torch.cat([task.test.key for task in stream.tasks])
    assert tests.equal(torch.arange(100, 700))


def test_tests_are_drawn_at_the_end_of_the_task():
    stream = gaussians(4000, magnitude=8, tasks=2, test_rows=2000)
    old, new = (task.test.x[task.test.y == 0].mean(0) for task in stream.tasks)
    assert (old - means(stream, 0, 2000)).norm() < 0.3
    assert (old - new).norm().item() == pytest.approx(8, abs=0.4)


def test_seeds_choose_and_repeat():
    first, again, other = (gaussians(50, seed=seed).tasks[0].train.x for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "sudden"}, "kind is 'sudden'; it must be one of none, abrupt"),
        ({"motion": "jump"}, "motion is 'jump'"),
        ({"motion": "rotation", "features": 1}, "cannot be rotated"),
        ({"at": (0.5, 0.2)}, "ascending"),
        ({"at": (0.0,)}, "above 0"),
        ({"kind": "gradual", "at": (0.9,), "duration": 0.2}, "outlast"),
        ({"kind": "gradual", "at": (0.1, 0.2), "duration": 0.2}, "overlap"),
        ({"rows": 2, "tasks": 3}, "2 rows for 3 tasks"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_bad_arguments_tell_the_way_out(arguments, told):
    with pytest.raises(ValueError, match=told):
        gaussians(**arguments)
