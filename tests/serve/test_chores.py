import asyncio
from concurrent.futures import Future

import pytest

from lifelong.core.errors import LogError
from lifelong.serve import chores
from lifelong.serve.chores import Chores


class Told:
    """Log, appender and retention, which note what is asked of them."""

    def __init__(self):
        self.last, self.ticks, self.trimmed, self.sampled = 0, [], 0, 0

    def submit(self, event):
        assert event.kind == "tick"
        self.ticks.append(self.last)
        self.last += 1
        future = Future()
        future.set_result(self.last)
        return future

    def step(self):
        self.trimmed += 1
        if self.trimmed == 2:
            raise LogError("the disk is full")
        return 0.001

    def sample(self):
        self.sampled += 1


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(chores, "PAUSE", 0.001)
    return Told()


def do(told, until):
    made = Chores(told, told, told, told.sample, 0.001)

    async def some():
        tasks = [asyncio.create_task(one) for one in made.all()]
        async with asyncio.timeout(20):
            while not until():
                await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()

    asyncio.run(some())


def test_a_tick_comes_where_something_came_since_the_last_one(told):
    waited = []
    told.last = 7
    do(told, lambda: told.ticks and not waited.append(0) and len(waited) > 30)
    assert told.ticks == [7]


def test_trimming_goes_on_where_it_failed(told, caplog):
    do(told, lambda: told.trimmed > 4 and told.sampled)
    assert "cannot trim the log: the disk is full" in caplog.text
