"""`lifelong serve` in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.log import SQLiteLog
from lifelong.serve.outside import Outside, TooLate, until


class DemoFailed(LifelongError):
    """The demonstrated service did not do what it is claimed to do."""


class Service(Outside):
    """Start a service, look at it, kill parts of it, and stop it whatever happens.

    Args:
        config: the path of its YAML file, whose setting `folder` is `state`.

    Raises:
        DemoFailed: it does not start.
    """

    def __init__(self, config: Path) -> None:
        super().__init__(config.parent / "state")
        self.config = config
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
        self.wait(lambda: self.ready() and self.status()["pid"], seconds, "start")
        self.url = str(json.loads((self.state / "api.json").read_bytes())["url"])

    def wait(self, done: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait for something to be true, and return it.

        Raises:
            DemoFailed: it does not become true in time, or the service has ended.
        """
        try:
            return until(done, seconds, what, self.check)
        except TooLate:
            told = f"the service did not {what} in {seconds:.0f} s; see {self.printed}"
            raise DemoFailed(told) from None

    def check(self) -> None:
        """See that it runs.

        Raises:
            DemoFailed: it has ended; the last that it printed is told.
        """
        if self._process is not None and self._process.poll() is not None:
            printed = self.printed.read_text("utf-8", "replace").strip().splitlines()
            raise DemoFailed(f"the service has ended: {printed[-1] if printed else 'silently'}")

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
