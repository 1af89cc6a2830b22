"""Runs of several strategies and seeds, side by side in processes, resumed where they stopped."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lifelong.bench.job import Job
from lifelong.core.errors import LifelongError

Told = Callable[[int, dict[str, Any]], None]
"""Called with a run's number and how it goes, see `lifelong.bench.job.Event`."""


class RunFailed(LifelongError):
    """A run ended in an error, or its process died; the others' results are kept."""


def run_all(
    configs: Sequence[Mapping[str, Any]],
    folders: Sequence[Path],
    *,
    workers: int | None = None,
    tell: Told = lambda number, event: None,  # noqa: ARG005
) -> list[dict[str, Any]]:
    """Run configurations, each in its folder, and return their results in order.

    Runs that are over are read; those that were interrupted go on. Each run computes on one
    thread, so its result does not depend on how many run side by side.

    Args:
        configs: what `suites.resolve` returns, with a seed.
        folders: as many, all different.
        workers: processes; None for as many as there are cores. With 1 all run in this process.
        tell: is told how each run goes.

    Raises:
        RunFailed: a run failed; the message says which and why.
        KeyboardInterrupt: ctrl-C; calling again goes on from the last checkpoints.
    """
    if len(set(folders)) != len(configs):
        raise ValueError(f"{len(configs)} runs need as many folders, got {len(set(folders))}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = min(workers or cores or 1, len(configs))
    if count < 1:
        raise ValueError(f"workers is {workers} for {len(configs)} runs; both must be 1 or more")
    if count == 1:
        return [
            _here(config, folder, lambda event, n=number: tell(n, event))  # type: ignore[misc]
            for number, (config, folder) in enumerate(zip(configs, folders, strict=True))
        ]
    return _Pool(configs, folders, count, tell).run()


def _here(
    config: Mapping[str, Any], folder: Path, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    result = Job(config, folder, tell).run()
    tell({"result": result})
    return result


class _Pool:
    """Processes that ask for the next run as soon as they are free."""

    def __init__(
        self,
        configs: Sequence[Mapping[str, Any]],
        folders: Sequence[Path],
        count: int,
        tell: Told,
    ) -> None:
        self.configs, self.folders, self.tell = configs, folders, tell
        self.results: dict[int, dict[str, Any]] = {}
        self.failures: dict[int, str] = {}
        self.waiting = list(range(len(configs)))[::-1]
        self.current: dict[Connection, int | None] = {}
        start = mp.get_context("spawn")
        self.processes = []
        for _ in range(count):
            ours, theirs = start.Pipe()
            process = start.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.current[ours] = None

    def run(self) -> list[dict[str, Any]]:
        try:
            for pipe in list(self.current):
                self._next(pipe)
            while self.current:
                for ready in wait(list(self.current)):
                    assert isinstance(ready, Connection)
                    self._hear(ready)
        finally:
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                process.join()
        if self.failures:
            number, reason = min(self.failures.items())
            config = self.configs[number]
            raise RunFailed(
                f"{len(self.failures)} of {len(self.configs)} runs failed; the first, "
                f"{config['strategy']} seed {config['seed']}: {reason}"
            )
        return [self.results[number] for number in range(len(self.configs))]

    def _next(self, pipe: Connection) -> None:
        """Give a process its next run, or let it end."""
        if not self.waiting:
            pipe.close()
            del self.current[pipe]
            return
        number = self.waiting.pop()
        self.current[pipe] = number
        pipe.send((dict(self.configs[number]), self.folders[number]))

    def _hear(self, pipe: Connection) -> None:
        number = self.current[pipe]
        assert number is not None
        try:
            event = pipe.recv()
        except EOFError:
            self.failures[number] = "its process died (killed, or out of memory)"
            del self.current[pipe]
            return
        if "error" in event:
            self.failures[number] = event["error"]
            self._next(pipe)
            return
        self.tell(number, event)
        if "result" in event:
            self.results[number] = event["result"]
            self._next(pipe)


def _work(pipe: Connection) -> None:
    """Run what comes through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's to handle
    while True:
        try:
            config, folder = pipe.recv()
        except EOFError:
            return
        try:
            _here(config, folder, pipe.send)
        except LifelongError as error:
            pipe.send({"error": str(error)})
        except Exception:
            pipe.send({"error": traceback.format_exc()})
