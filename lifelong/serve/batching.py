"""Rows that wait while the model computes become its next batch; nothing waits for a clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Full
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lifelong.core.errors import LifelongError
from lifelong.serve.snapshot import Arm, Holder, Snapshot


class Busy(LifelongError, Full):
    """More waits than there is room for; the client is to try again later."""


class Answer(NamedTuple):
    """The outputs for the rows of one request, (rows, outputs), all of one version."""

    version: int
    output: npt.NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Waiting:
    rows: npt.NDArray[np.float32]
    tasks: npt.NDArray[np.int64] | None
    future: asyncio.Future[Answer]


class MicroBatcher:
    """Gather the rows of concurrent requests into batches, for use in one event loop.

    The first request is computed as soon as the loop has read what has arrived; what arrives
    meanwhile is the next batch. A batch reads its snapshot from the holder once, and the rows of a
    request are in one batch, so that no answer mixes two versions. Where a batch fails, its
    requests are computed one by one, so that only the one at fault gets the error.

    Args:
        holder: the snapshots.
        rows: a batch is full with so many; a request with more is a batch of its own.
        capacity: how many rows may wait.
        threaded: compute in a thread of its own. The loop then reads and answers while a model
            computes, and a batch costs two changes of thread; which of the two is faster depends
            on the model and the machine (benchmarks/serving.py --threaded).
        on_batch: is told the rows of each batch.

    Example:
        >>> from torch import nn
        >>> async def main():
        ...     batcher = MicroBatcher(Holder(Snapshot(7, nn.Linear(2, 5))))
        ...     answer = await batcher.submit(np.zeros((1, 2), np.float32))
        ...     return answer.version, answer.output.shape
        >>> asyncio.run(main())
        (7, (1, 5))
    """

    def __init__(
        self,
        holder: Holder,
        *,
        rows: int = 64,
        capacity: int = 1024,
        threaded: bool = False,
        on_batch: Callable[[int], object] | None = None,
    ) -> None:
        if rows < 1 or capacity < 1:
            raise ValueError(f"batches of {rows} rows, {capacity} waiting; give 1 or more of each")
        self.holder, self.rows, self.capacity = holder, rows, capacity
        self.waiting = 0
        """Rows that wait for their batch."""
        self._queues: dict[Arm, deque[_Waiting]] = {"champion": deque(), "challenger": deque()}
        self._running = False
        self._on_batch = on_batch
        self._thread = ThreadPoolExecutor(1, "predict") if threaded else None

    def submit(
        self,
        rows: npt.NDArray[np.float32],
        tasks: npt.NDArray[np.int64] | None = None,
        arm: Arm = "champion",
    ) -> asyncio.Future[Answer]:
        """Queue the rows of one request, (rows, ...); the future gets their answer.

        Cancelling the future takes the rows out; no other request notices.

        Raises:
            Busy: too many rows wait.
        """
        if self.waiting and self.waiting + len(rows) > self.capacity:
            raise Busy(
                f"{self.waiting} rows wait for the model, of {self.capacity} that may; "
                "try again, or send less at once"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queues[arm].append(_Waiting(rows, tasks, future))
        self.waiting += len(rows)
        if not self._running:
            self._running = True
            loop.call_soon(self._next, loop)
        return future

    def close(self) -> None:
        """Cancel what waits and end the thread, after the batch that it computes."""
        for queue in self._queues.values():
            for waiting in queue:
                waiting.future.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute a batch of each arm that has rows waiting, and come back if more wait."""
        batches = [(self.holder.of(arm), self._take(queue)) for arm, queue in self._queues.items()]
        batches = [(snapshot, batch) for snapshot, batch in batches if batch]
        if self._thread is not None and batches:
            work = loop.run_in_executor(self._thread, _compute_all, batches)
            work.add_done_callback(lambda done: self._finish(loop, batches, done))
            return
        for snapshot, batch in batches:
            _settle(batch, _compute(snapshot, batch))
        self._go_on(loop)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batches: list[tuple[Snapshot, list[_Waiting]]],
        done: asyncio.Future[list[list[Answer | Exception]]],
    ) -> None:
        failed = asyncio.CancelledError() if done.cancelled() else done.exception()
        if failed is None:
            for (_, batch), answers in zip(batches, done.result(), strict=True):
                _settle(batch, answers)
        else:
            for _, batch in batches:
                for waiting in batch:
                    waiting.future.cancel()
        self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._running = any(self._queues.values())
        if self._running:
            loop.call_soon(self._next, loop)

    def _take(self, queue: deque[_Waiting]) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while queue and (not batch or rows + len(queue[0].rows) <= self.rows):
            waiting = queue.popleft()
            self.waiting -= len(waiting.rows)
            if not waiting.future.done():  # a client that has gone cancels
                batch.append(waiting)
                rows += len(waiting.rows)
        if rows and self._on_batch is not None:
            self._on_batch(rows)
        return batch


def _compute_all(
    batches: list[tuple[Snapshot, list[_Waiting]]],
) -> list[list[Answer | Exception]]:
    return [_compute(snapshot, batch) for snapshot, batch in batches]


def _compute(snapshot: Snapshot, batch: list[_Waiting]) -> list[Answer | Exception]:
    """Compute an answer for each request, or the error of each."""
    if not batch:
        return []
    try:
        output = snapshot.predict(_joined(batch), _tasks(batch))
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [_compute(snapshot, [waiting])[0] for waiting in batch]
    answers: list[Answer | Exception] = []
    start = 0
    for waiting in batch:
        end = start + len(waiting.rows)
        answers.append(Answer(snapshot.version, output[start:end]))
        start = end
    return answers


def _joined(batch: list[_Waiting]) -> npt.NDArray[np.float32]:
    return batch[0].rows if len(batch) == 1 else np.concatenate([one.rows for one in batch])


def _tasks(batch: list[_Waiting]) -> npt.NDArray[np.int64] | None:
    if all(waiting.tasks is None for waiting in batch):
        return None
    return np.concatenate(
        [
            np.full(len(waiting.rows), -1, np.int64) if waiting.tasks is None else waiting.tasks
            for waiting in batch
        ]
    )


def _settle(batch: list[_Waiting], answers: list[Answer | Exception]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        if waiting.future.done():
            continue
        if isinstance(answer, Exception):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)
