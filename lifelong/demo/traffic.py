"""Traffic: digits to be predicted, and what they were, over HTTP, at a steady pace."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from lifelong.demo.digits import Digits
from lifelong.serve.client import Client, ServiceError


class Traffic:
    """Ask for predictions, and send each one's label some requests later, until stopped.

    No request is sent a second time: one that fails counts as failed.

    Args:
        url: of the service.
        digits: to draw from.
        pace: predictions a second, at most.
        delay: predictions between one and its label.
        name: of the visitors.
        says: what labels are sent in place of the right one; None for the right one.
    """

    def __init__(
        self,
        url: str,
        digits: Digits,
        *,
        pace: float = 60.0,
        delay: int = 8,
        name: str = "visitor",
        says: int | None = None,
    ) -> None:
        self.pace, self.delay, self.name, self.says = pace, delay, name, says
        self.answered = 0
        """Requests that were answered: predictions and labels."""
        self.rows = 0
        """Rows whose labels were taken."""
        self.failures: list[str] = []
        self.versions: set[int] = set()
        """That have answered."""
        self.crash: Exception | None = None
        """What ended it before it was stopped."""
        self._digits = digits
        self._client = Client(url, attempts=1, timeout=60.0)
        self._weights: list[int] = []
        self._waiting: deque[tuple[str, int]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def send(self, new: Sequence[int], old: Sequence[int] = ()) -> None:
        """Send these classes from now on: of ten rows seven are new ones, the rest old."""
        self._weights = [*new] * (7 * len(old) or 1) + [*old] * (3 * len(new))
        if not self._thread.is_alive():
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop; the labels that wait are sent before."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(60)
        self._client.close()

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stopping.is_set():
                self._predict()
                while len(self._waiting) > self.delay:
                    self._label()
                due = max(due + 1 / self.pace, time.monotonic() - 0.5)
                self._stopping.wait(max(0.0, due - time.monotonic()))
            while self._waiting:
                self._label()
        except Exception as error:
            self.crash = error

    def _predict(self) -> None:
        x, y = self._digits.draw(self._weights)
        subject = f"{self.name}-{self.answered % 40}"
        try:
            answer = self._client.predict(x, subject=subject)
        except ServiceError as error:
            self.failures.append(str(error))
            return
        self.answered += 1
        self.versions.add(answer.version)
        self._waiting.append((answer.id, y if self.says is None else self.says))

    def _label(self) -> None:
        prediction, y = self._waiting.popleft()
        try:
            self._client.label(prediction, y)
        except ServiceError as error:
            self.failures.append(str(error))
            return
        self.answered += 1
        self.rows += 1
