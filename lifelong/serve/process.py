"""One process of the service: `python -m lifelong.serve.process api|trainer CONFIG`, or forked."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from lifelong.core.errors import ConfigError, LifelongError
from lifelong.serve import logs
from lifelong.serve.auth import INTERNAL
from lifelong.serve.config import Config

GRACE = 30.0
"""Seconds that a process has to end by itself, where nobody is left to end it."""


def main(arguments: list[str]) -> int:
    """Run one process until it is told to stop; 1 if it cannot."""
    kind, path = arguments
    level = os.environ.get("LIFELONG_LOG", "WARNING")  # requests are told at INFO
    logs.configure(kind, level=level)
    try:
        logs.configure(kind, Config.read(path).serve.logs, level)
        if kind == "api":
            from lifelong.serve import api

            api.run(Path(path))
        else:
            from lifelong.serve import learning

            learning.run(Path(path))
    except (LifelongError, OSError) as error:  # a full disk, for one: it is started again
        logging.getLogger("lifelong.serve").error("%s cannot go on: %s", kind, error)
        return 1
    return 0


def process_main(kind: str, path: Path, key: str) -> None:
    """Be one process of the service, forked from one that serves nobody.

    Args:
        kind: "api" or "trainer".
        path: of the configuration.
        key: with which the trainer asks the api.
    """
    _belong()
    os.environ[INTERNAL] = key
    with contextlib.suppress(OSError):  # where there is such a thing, `ps` shows it
        Path("/proc/self/comm").write_text(f"lifelong {kind}")
    raise SystemExit(main([kind, str(path)]))


def prepare_main(path: Path, say: Connection) -> None:
    """Check and make what a service starts with; say what is wrong and if settings are, in JSON.

    Args:
        path: of the configuration.
        say: where to.
    """
    _belong()
    from lifelong.serve.startup import prepare

    problem, settings = "", False
    try:
        prepare(Config.read(path))
    except LifelongError as error:
        problem, settings = str(error), isinstance(error, ConfigError)
    say.send_bytes(json.dumps([problem, settings]).encode())


def _belong() -> None:
    """Be in a session of its own, and end when the supervisor is gone, even if it was killed."""
    os.setsid()  # a ctrl-C is for the supervisor alone
    threading.Thread(target=_end_with_supervisor, daemon=True).start()


def _end_with_supervisor() -> None:
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()  # it holds the other end of a pipe, which closes with it
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
