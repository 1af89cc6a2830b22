"""`lifelong serve` in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.log import SQLiteLog


class DemoFailed(LifelongError):
    """The demonstrated service did not do what it is claimed to do."""


class Service:
    """Start a service, look at it, kill parts of it, and stop it whatever happens.

    Args:
        config: the path of its YAML file, whose setting `folder` is `state`.

    Raises:
        DemoFailed: it does not start.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.state = config.parent / "state"
        self.printed = config.parent / "service.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.state / "api.json").unlink(missing_ok=True)
        with self.printed.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lifelong", "serve", str(self.config)],
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # ctrl-C is this process's: it stops the service in order
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self, seconds: float = 240.0) -> None:
        """Wait until the api answers and the trainer has looked at the log."""
        self.wait(lambda: self._answers() and self.status().get("pid"), seconds, "start")

    def wait(self, done: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait for something to be true, and return it.

        Raises:
            DemoFailed: it does not become true in time, or the service has ended.
        """
        end = time.monotonic() + seconds
        while not (found := done()):
            self.check()
            if time.monotonic() > end:
                raise DemoFailed(
                    f"the service did not {what} in {seconds:.0f} s; see {self.printed}"
                )
            time.sleep(0.05)
        return found

    def check(self) -> None:
        """See that it runs.

        Raises:
            DemoFailed: it has ended; the last that it printed is told.
        """
        if self._process is not None and self._process.poll() is not None:
            printed = self.printed.read_text("utf-8", "replace").strip().splitlines()
            raise DemoFailed(f"the service has ended: {printed[-1] if printed else 'silently'}")

    def status(self) -> dict[str, Any]:
        """Return what the trainer last said of itself; {} if nothing yet."""
        return _read(self.state / "trainer" / "status.json")

    def last(self) -> int:
        """Return the offset of the newest event."""
        with SQLiteLog(self.state / "log") as log:
            return log.last

    def has_read(self, offset: int) -> bool:
        """Tell whether the trainer has taken in the event at this offset."""
        return int(self.status().get("offset", -1)) >= offset

    def kill_trainer(self) -> int:
        """Send the trainer SIGKILL; return its process id."""
        pid = int(self.status()["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> None:
        """Stop all of it; returns when its processes are gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        self.url = str(_read(self.state / "api.json").get("url", ""))
        try:
            return bool(self.url) and httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False


def check_unused(folder: Path) -> None:
    """See that no service runs in a folder.

    Raises:
        DemoFailed: one does.
    """
    if (folder / "state" / "log").exists():
        try:
            SQLiteLog(folder / "state" / "log", write=True).close()
        except LogError as error:
            raise DemoFailed(f"{error}; is another demo running? choose another --out") from error


def free_port(first: int | None = None) -> int:
    """Find a port of this machine that nobody listens on: any, or the next one from `first`."""
    for port in [0] if first is None else range(first, first + 100):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise DemoFailed(f"the ports {first} and the 99 after it are all taken; free one")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):  # not written yet
        return {}
    return found
