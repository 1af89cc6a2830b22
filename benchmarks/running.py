"""A service in real processes, for the benchmarks that kill it, fill it and load it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from lifelong.serve.outside import Outside, free_port, until

MODEL = """
import torch
from torch.optim import SGD
from lifelong import DERpp, Learner
from lifelong.nets import MLP

def learner():
    torch.manual_seed(0)
    net = MLP(6, hidden=(16,), outputs=4)
    return Learner(net, SGD(net.parameters(), lr=0.1), [DERpp(64, rows=8)], seed=1)
"""
# The pause before a process that dies again and again is started is short, so that many kills fit.
# It ends with the process that started it, however that ends.
START = """
import os, sys, threading, time
from pathlib import Path
from lifelong.serve import supervisor
supervisor.LONGEST = 0.5
running = supervisor.Supervisor(Path(sys.argv[1]), lambda text: print(text, flush=True))
def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    running.stop()
threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
running.run()
"""


def points(rows: int, seed: int) -> tuple[list[list[float]], list[int]]:
    """Draw rows of four classes around fixed centres."""
    chance = np.random.default_rng(seed)
    y = chance.integers(0, 4, rows)
    centres = np.random.default_rng(99).normal(size=(4, 6)) * 2
    x = centres[y] + chance.normal(size=(rows, 6)) * 0.5
    return x.round(4).tolist(), y.tolist()


class Running(Outside):
    """A service, started on entering and stopped on leaving.

    Args:
        folder: for its configuration, model and state.
        config: YAML; PORT in it becomes one that is free.
    """

    def __init__(self, folder: Path, config: str) -> None:
        super().__init__(folder / "state")
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "model.py").write_text(MODEL)
        self.path = folder / "service.yaml"
        self.path.write_text(config.replace("PORT", str(self.port)))
        self.output: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if error is not None:
            print("".join(self.output[-40:]), file=sys.stderr)

    def start(self, wait: float = 300.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(self.path)],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._drainer = threading.Thread(target=self._drain, args=(self.process,), daemon=True)
        self._drainer.start()
        if wait:
            try:
                until(self.ready, wait, "the service answers")
            except BaseException:
                self.stop()
                print("".join(self.output[-40:]), file=sys.stderr)
                raise

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
            self._drainer.join(60)

    def kill(self, *kinds: str) -> list[int]:
        """Send SIGKILL to processes, as near to each other as can be."""
        pids = [pid for kind in kinds if (pid := self.pid(kind)) is not None]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def settled(self, seconds: float = 120.0) -> None:
        """Wait until the trainer has taken in the whole log, and nothing more comes."""

        def done() -> bool:
            last = self.last()
            time.sleep(0.6)  # longer than a tick and the status take
            status = self.status()
            alive = status["pid"] == self.pid("trainer")
            return alive and self.last() == last and bool(status["offset"] >= last)

        until(done, seconds, "the trainer has taken in the log")

    def rss(self, kind: str) -> int:
        """Return the bytes of memory that a process holds."""
        text = Path(f"/proc/{self.pid(kind)}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _drain(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.output.append(line)
