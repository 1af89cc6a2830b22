from typing import Any

import numpy as np
import pytest

from lifelong.bench.constraints import Constraints, room_of
from lifelong.core.errors import UnknownName


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"privacy": "row"}, "unknown privacy 'row'; did you mean 'rows'"),
        ({"place": "egde"}, "unknown place 'egde'; did you mean 'edge'"),
        ({"increment": "classes"}, "unknown increment 'classes'; did you mean 'class'"),
        ({"storage": "much"}, "storage is 'much'; give bytes with a unit"),
        ({"storage": -1}, "storage is -1"),
        ({"compute": 0.5}, "compute is 0.5; it must be a finite number of 1 or more"),
        ({"compute": float("nan")}, "compute is nan; it must be"),
        ({"compute": float("inf")}, "compute is inf; it must be"),
        ({"compute": "x"}, "compute is 'x'; it must be a finite number of 1 or more"),
        ({"compute": True}, "compute is True; it must be"),
        ({"tasks": 0}, "tasks is 0; it must be a whole number of 1 or more"),
        ({"tasks": "5"}, "tasks is '5'; it must be a whole number of 1 or more"),
        ({"tasks": 2.5}, "tasks is 2.5; it must be a whole number"),
        ({"classes": True}, "classes is True; it must be a whole number"),
        ({"parameters": float("nan")}, "parameters is nan; it must be a whole number"),
        ({"storage": 1e6}, "storage is 1000000.0; give a whole number of bytes, a text such as"),
        ({"storage": float("nan")}, "storage is nan; give a whole number of bytes"),
        ({"storage": [1]}, "storage is [1]; give a whole number of bytes"),
        ({"storage": True}, "storage is True; give a whole number of bytes"),
        ({"storage": 0, "privacy": "rows"}, "give it a size, such as 10MB, or leave privacy out"),
        ({"storage": "0", "privacy": "statistics"}, "storage is 0"),
        ({"increment": "task", "task_known": False}, "take the increment 'class' or 'domain'"),
        ({"increment": "class", "task_known": True}, "take the increment 'task'"),
        ({"boundaries": False, "task_known": True}, "leave boundaries as they are"),
        ({"boundaries": False, "increment": "task"}, "leave boundaries as they are"),
    ],
)
def test_senseless_and_contradictory_constraints_are_refused(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=r"unknown|is|not known") as caught:
        Constraints(**given)
    assert said in str(caught.value)
    assert isinstance(caught.value, UnknownName) == said.startswith("unknown")


@pytest.mark.parametrize(
    ("given", "follows"),
    [
        ({}, {"privacy": "rows", "increment": "class", "task_known": False, "compute": None}),
        ({"storage": 0}, {"privacy": "nothing", "storage": 0}),
        ({"storage": "1.5KB"}, {"privacy": "rows", "storage": 1500}),
        ({"task_known": True}, {"increment": "task"}),
        ({"task_known": True, "increment": "domain"}, {"increment": "domain", "task_known": True}),
        ({"increment": "task"}, {"task_known": True}),
        ({"place": "edge"}, {"compute": 3.0}),
        ({"place": "edge", "compute": 2}, {"compute": 2}),
    ],
)
def test_what_follows_is_filled_in(given: dict[str, Any], follows: dict[str, Any]):
    settled = Constraints(**given).settled()
    assert {name: getattr(settled, name) for name in follows} == follows
    assert settled.settled() == settled


def test_no_room_is_a_room():
    assert [room_of(text) for text in ("0", "0MB", 0, "10 KiB")] == [0, 0, 0, 10240]


def test_numbers_of_numpy_are_numbers():
    settled = Constraints(storage=np.int64(9), tasks=np.int64(5), compute=np.float32(2)).settled()
    assert (settled.storage, settled.tasks, settled.compute) == (9, 5, 2)
