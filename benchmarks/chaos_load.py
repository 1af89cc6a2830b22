"""Clients that go on whatever happens, and remember what was acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from running import points

from lifelong.serve.client import Client, ServiceError
from lifelong.serve.outside import until

AGAIN = {None, 408, 429, 503}
"""No answer, or one that says to come back: what a kill may lead to."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Sent:
    """One event that the service has acknowledged.

    Attributes:
        id: of the event.
        x, y: what was sent.
        offset: that was told; None for a prediction.
        answer: of a prediction: version and output.
    """

    id: str
    x: list[float] | None
    y: int | None
    offset: int | None = None
    answer: tuple[int, list[float]] | None = None


class Load:
    """Threads that send predictions, labels of them, some late, and examples.

    Args:
        url: of the service.
        seed: of what is sent.
        threads: how many.
        pause: seconds between what one of them sends, at most.
    """

    def __init__(self, url: str, seed: int, threads: int = 3, pause: float = 0.05) -> None:
        self.url, self.seed, self.pause_between = url, seed, pause
        self.wrong: list[str] = []
        """Answers that no kill explains."""
        self.sent = 0
        self._new: list[Sent] = []
        self._failed: list[tuple[float, str]] = []
        self._answered: list[float] = []
        self._lock = threading.Lock()
        self._going, self._stopping = threading.Event(), threading.Event()
        self._going.set()
        self._resting = 0
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def take(self) -> list[Sent]:
        """Return what was acknowledged since the last call."""
        assert not self.wrong, self.wrong[:5]
        with self._lock:
            new, self._new = self._new, []
        return new

    def wait_for(self, more: int, seconds: float = 60.0) -> None:
        """Wait for so many more acknowledgements."""
        upto = self.sent + more
        until(lambda: self.sent >= upto or self.wrong, seconds, f"{more} acknowledgements")

    def failed_between(self, start: float, end: float) -> list[str]:
        """Return what failed of what was sent then."""
        return [text for at, text in self._failed if start <= at < end]

    def answered(self, start: float, end: float) -> int:
        """Count what was sent and answered then."""
        return sum(start <= at < end for at in self._answered[-10_000:])

    def pause(self) -> None:
        """Let all threads come to rest, each when it is through with what it sends."""
        self._going.clear()
        until(lambda: self._resting == len(self._threads), 120, "the load rests")

    def go_on(self) -> None:
        self._going.set()

    def stop(self) -> None:
        self._stopping.set()
        self._going.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        chance = Random(self.seed * 100 + number)
        late: list[tuple[str, int]] = []
        count = 0
        with Client(self.url, attempts=1, timeout=10.0) as client:
            while not self._stopping.is_set():
                if not self._going.is_set():
                    with self._lock:
                        self._resting += 1
                    self._going.wait()
                    with self._lock:
                        self._resting -= 1
                    continue
                rows, classes = points(20, self.seed * 10_000 + number * 1000 + count)
                for x, y in zip(rows, classes, strict=True):
                    if not self._going.is_set() or self._stopping.is_set():
                        break
                    count += 1
                    self._one(client, chance, f"{number}-{count}", x, y, late)
                    time.sleep(chance.uniform(0, self.pause_between))

    def _one(
        self,
        client: Client,
        chance: Random,
        name: str,
        x: list[float],
        y: int,
        late: list[tuple[str, int]],
    ) -> None:
        subject = f"s{chance.randrange(7)}"
        if chance.random() < 0.4:
            id = f"e-{name}"
            if (offset := self._send(lambda: client.example(x, y, id=id, subject=subject))) is None:
                return
            self._note(Sent(id, x, y, offset))
            return
        id = f"p-{name}"
        answer = self._send(lambda: client.predict(x, id=id, subject=subject))
        if answer is None:
            return
        assert isinstance(answer.output, list)
        self._note(Sent(id, x, None, answer=(answer.version, answer.output)))
        late.append((id, y))
        if chance.random() < 0.7:
            about, label = late.pop(chance.randrange(len(late)))
            told = self._send(lambda: client.label(about, label))
            if told is not None:
                self._note(Sent(f"label:{about}", None, label, told))

    def _send(self, ask: Callable[[], Found]) -> Found | None:
        """Send until it is acknowledged, as a client does that cannot afford to lose it."""
        while not self._stopping.is_set():
            at = time.monotonic()
            try:
                found = ask()
            except ServiceError as error:
                self._failed.append((at, str(error)))
                if error.status not in AGAIN:
                    self.wrong.append(str(error))
                    return None
                time.sleep(0.05)
            else:
                self._answered.append(at)
                return found
        return None

    def _note(self, sent: Sent) -> None:
        with self._lock:
            self._new.append(sent)
            self.sent += 1
