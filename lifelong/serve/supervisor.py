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

from lifelong.core import restore
from lifelong.core.errors import RegistryError, StateMismatch
from lifelong.serve.config import Config
from lifelong.serve.log import SQLiteLog
from lifelong.serve.process import process_main
from lifelong.serve.registry import Registry
from lifelong.serve.startup import check_address, checked_learner, explained, make_folder
from lifelong.serve.versions import write_json
from lifelong.serve.weights import model_of, weights_of

KINDS = ("api", "trainer")
PRELOADED = ["lifelong.serve.api", "lifelong.serve.learning", "mlflow.tracking"]
LONGEST = 10.0
"""Seconds at most before a process that keeps dying is started again."""


def prepare(config: Config) -> None:
    """Make the folder, the log and a first version, where they are not there yet.

    The first version is the model as the user's function makes it, untrained or not. All that can
    be checked is checked before anything is written.

    Raises:
        ConfigError: the model or the address cannot be used.
        LogError: a service runs in the folder already, or its log is damaged.
    """
    check_address(config.serve.host, config.serve.port)
    learner = checked_learner(config)
    make_folder(config)
    SQLiteLog(config.folder / "log", write=True).close()
    (config.folder / "api.json").unlink(missing_ok=True)
    registry = Registry(config.folder)
    champion = registry.alias("champion")
    if champion is not None:
        try:
            model_of(config.factory(), registry.load_weights(champion))
        except StateMismatch as error:
            raise explained(error, config) from error
        except RegistryError:  # damaged: the api goes back to one that is whole, or says why not
            pass
        return
    first = registry.register(
        restore.copied(weights_of(learner)),
        None,
        parent=None,
        first_offset=1,
        last_offset=0,
        metrics={},
        note="as the learner was made",
        id="start",
    )
    registry.set_alias("champion", first.number)


class Supervisor:
    """Run the service's processes, each in a session of its own.

    They are forked from a process that has imported what they need and does nothing else, so that
    one that died answers again in a fraction of the time that importing torch takes.
    `processes.json` in the service's folder has their numbers.

    A process that dies is started again, at once the first time, and later after a pause that
    doubles up to ten seconds and is forgotten when it has lived for a minute.

    Args:
        path: of the configuration.
        tell: is told what goes wrong, in words.
        announce: is told where the service answers.
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
        self.stopping = False
        self.processes: dict[str, ForkServerProcess] = {}
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(PRELOADED)
        self._started = dict.fromkeys(KINDS, 0.0)
        self._pause = dict.fromkeys(KINDS, 0.0)
        self._key = secrets.token_urlsafe(32)
        self._told = False

    def run(self) -> None:
        """Run until `stop` is called or a signal comes."""
        forkserver.ensure_running()  # it imports while this one prepares
        prepare(self.config)
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
        with suppress(RegistryError):  # the disk may be full: nobody needs it to go on
            write_json(self.config.folder / "processes.json", now_running)

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


def _told(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
