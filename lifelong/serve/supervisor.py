"""Two processes, each started again when it dies, and stopped together."""

from __future__ import annotations

import json
import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from lifelong.core.errors import ConfigError, LifelongError
from lifelong.serve.config import Config
from lifelong.serve.process import prepare_main, process_main

KINDS = ("api", "trainer")
PRELOADED = ["lifelong.serve.preload"]
LONGEST = 10.0
"""Seconds at most before a process that keeps dying is started again."""


class Supervisor:
    """Run the service's processes, each in a session of its own.

    They are forked from a process that has imported what they need and does nothing else: torch and
    MLflow are imported once, and one that died answers again in a fraction of that time. This one
    imports neither. When it is gone, however it ended, its processes end too.
    `processes.json` in the service's folder has their numbers.

    A process that dies is started again, at once the first time, and later after a pause that
    doubles up to ten seconds and is forgotten when it has lived for a minute.

    Args:
        path: of the configuration.
        tell: is told what goes wrong, in words.
        announce: is told where the service answers.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[str], None] = print,
        announce: Callable[[str], None] = print,
    ) -> None:
        self.path = path
        self.tell = tell
        self.announce = announce
        self.config = Config.read(path)
        self.config.source()  # refused here, before the seconds that imports take
        self.stopping = False
        self.processes: dict[str, ForkServerProcess] = {}
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(PRELOADED)
        self._started = dict.fromkeys(KINDS, 0.0)
        self._pause = dict.fromkeys(KINDS, 0.0)
        self._key = secrets.token_urlsafe(32)
        self._told = False

    def run(self) -> None:
        """Run until `stop` is called or a signal comes.

        Raises:
            LifelongError: the service cannot start; see `lifelong.serve.startup.prepare`.
        """
        quiet = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ctrl-C is for this process alone
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, quiet)
        self._prepare()
        before = {
            number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while not self.stopping:
                for kind in KINDS:
                    self._look_after(kind)
                self._tell_address()
                time.sleep(0.05)
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop soon; may be called by a signal."""
        del number, frame
        self.stopping = True

    def _prepare(self) -> None:
        """Have a forked process check and make what the service starts with."""
        said, say = self._forks.Pipe(duplex=False)
        process = self._forks.Process(target=prepare_main, args=(self.path, say), daemon=True)
        process.start()
        say.close()
        try:
            problem, settings = json.loads(said.recv_bytes())
        except EOFError:
            problem = "the service cannot be prepared; what went wrong is told above"
            settings = False
        process.join()
        if problem:
            raise ConfigError(problem) if settings else LifelongError(problem)

    def _look_after(self, kind: str) -> None:
        process = self.processes.get(kind)
        now = time.monotonic()
        if process is not None:
            code = process.exitcode
            if code is None:
                return
            lived = now - self._started[kind]
            self._pause[kind] = 0.0 if lived > 60 else min(2 * self._pause[kind] + 0.1, LONGEST)
            self.tell(f"{kind} has ended ({_told(code)}); it starts again")
            del self.processes[kind]
        if now - self._started[kind] < self._pause[kind]:
            return
        self._started[kind] = now
        process = self._forks.Process(target=process_main, args=(kind, self.path, self._key))
        process.start()
        self.processes[kind] = process
        now_running = {kind: process.pid for kind, process in self.processes.items()}
        path = self.config.folder / "processes.json"
        with suppress(OSError):  # the disk may be full: nobody needs it to go on
            written = path.with_name(".processes.json")
            written.write_text(json.dumps(now_running), "utf-8")
            written.replace(path)

    def _tell_address(self) -> None:
        """Say where the api answers, the first time that it does."""
        api = self.processes.get("api")
        if self._told or api is None:
            return
        with suppress(OSError, ValueError):  # it does not yet
            said = json.loads((self.config.folder / "api.json").read_bytes())
            if said["pid"] == api.pid:
                self.announce(f"serving {self.path} on {said['url']}")
                self._told = True

    def _end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for kind, process in self.processes.items():
            process.join(20)
            if process.exitcode is None:
                self.tell(f"{kind} does not stop; it is killed")
                process.kill()
                process.join()
        if self.processes:
            self.announce(f"stopped; {self.config.folder} has all that it knows")


def _told(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
