import asyncio
from concurrent.futures import Future
from queue import Full

import pytest

from lifelong.core.errors import LogError
from lifelong.serve.auth import Refused
from lifelong.serve.events import Event
from lifelong.serve.recorder import Recorder
from lifelong.serve.records import Conflict

EVENTS = [Event("example", f"e-{i}", 0.0, {"x": [0.0], "y": 0}) for i in range(3)]


class Queue:
    """Takes events, each with what is to become of it: an offset, an error, or no room once."""

    def __init__(self, *outcomes):
        self.outcomes, self.taken = list(outcomes), []

    def __call__(self, event):
        outcome = self.outcomes.pop(0)
        if outcome is Full:
            raise Full
        self.taken.append(event.id)
        future = Future()
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future


def recorder(*outcomes):
    told = []
    queue = Queue(*outcomes)
    return Recorder(queue, told.append), queue, told


def test_all_have_their_offsets_also_where_there_was_no_room_for_a_while():
    held, queue, told = recorder(5, Full, Full, 6, 7)
    assert asyncio.run(held.record(EVENTS)) == [5, 6, 7]
    assert (queue.taken, told) == (["e-0", "e-1", "e-2"], ["example"] * 3)


def test_where_there_is_no_room_for_the_first_none_is_taken():
    held, queue, _ = recorder(Full)
    with pytest.raises(Full):
        asyncio.run(held.record(EVENTS))
    assert queue.taken == []


def test_the_others_are_logged_where_one_cannot_be():
    held, queue, told = recorder(5, Conflict("e-1 is known"), 6)
    with pytest.raises(Refused, match="1 of 3 are not in the log; the first: e-1 is known"):
        asyncio.run(held.record(EVENTS))
    assert (len(queue.taken), len(told)) == (3, 2)
    held, _, _ = recorder(LogError("the disk is full"))
    with pytest.raises(LogError, match="full"):
        asyncio.run(held.record(EVENTS[:1]))


def test_what_was_trusted_and_lost_is_known():
    held, _, told = recorder(5, Conflict("e-1 is known"), 6)
    asyncio.run(held.trust(EVENTS))
    assert (held.lost, len(told)) == (None, 2)
    held, _, _ = recorder(LogError("the disk is full"))
    asyncio.run(held.trust(EVENTS[:1]))
    assert held.lost == "the disk is full"
