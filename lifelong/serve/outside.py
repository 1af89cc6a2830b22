"""A service as it is seen from outside, by its folder: to wait for it, and to look at it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lifelong.core.errors import LifelongError
from lifelong.serve.log import SQLiteLog

Found = TypeVar("Found")


class TooLate(LifelongError):
    """What was waited for did not come in time."""


def until(
    done: Callable[[], Found],
    seconds: float,
    what: str,
    check: Callable[[], object] = lambda: None,
) -> Found:
    """Wait until something is so, and return it.

    Args:
        done: whether it is; what counts as true is returned.
        seconds: to wait at most.
        what: is waited for, in words.
        check: raises where waiting is of no use any more.

    Raises:
        TooLate: it was not so in all that time.

    Example:
        >>> until(lambda: 3, 1.0, "a number")
        3
    """
    end = time.monotonic() + seconds
    while not (found := done()):
        check()
        if time.monotonic() > end:
            raise TooLate(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
    return found


def free_port(first: int | None = None) -> int:
    """Find a port of this machine that nobody listens on: any, or the next one from `first`.

    Raises:
        TooLate: a hundred of them are taken.
    """
    for port in [0] if first is None else range(first, first + 100):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise TooLate(f"the ports {first} and the 99 after it are all taken; free one")


class Outside:
    """What a service's folder and its answers tell.

    Args:
        state: its folder.
    """

    def __init__(self, state: Path) -> None:
        self.state = state

    def ready(self) -> bool:
        """Tell whether it answers requests."""
        try:
            url = str(_read(self.state / "api.json").get("url", ""))
            return bool(url) and httpx.get(f"{url}/readyz", timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def pid(self, kind: str) -> int | None:
        """Return the number of the process "api" or "trainer", also of one that only now starts."""
        found = _read(self.state / "processes.json").get(kind)
        with suppress(TypeError, ProcessLookupError):
            os.kill(found, 0)  # type: ignore[arg-type]
            return found
        return None

    def status(self) -> dict[str, Any]:
        """Return what the trainer last said of itself, or that it has said nothing yet."""
        nothing = {"pid": None, "offset": -1, "rows": 0, "behind": 1}
        return _read(self.state / "trainer" / "status.json") or nothing

    def last(self) -> int:
        """Return the offset of the newest event."""
        with SQLiteLog(self.state / "log") as log:
            return log.last

    def has_read(self, offset: int) -> bool:
        """Tell whether the trainer has taken in the event at this offset."""
        return int(self.status()["offset"]) >= offset


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):  # not written yet
        return {}
    return found
