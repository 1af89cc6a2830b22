"""Runs of several strategies and seeds, side by side in processes, resumed where they stopped."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from lifelong.bench.folder import RESULT, check_folders
from lifelong.bench.job import Event, Job
from lifelong.core.errors import LifelongError

Told = Callable[[int, dict[str, Any]], None]
"""Called with a run's number and how it goes (see `lifelong.bench.job.Event`), at last with
{"result": its result} or {"error": why it failed}, with "read" if it was over before."""


class RunFailed(LifelongError):
    """A run ended in an error, or its process died; `results` are those of the others."""

    def __init__(self, message: str, results: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


def run_all(
    configs: Sequence[Mapping[str, Any]],
    folders: Sequence[Path],
    *,
    workers: int | None = None,
    tell: Told = lambda number, event: None,  # noqa: ARG005
) -> list[dict[str, Any]]:
    """Run configurations, each in its folder, and return their results in order.

    Runs that are over are read; those that were interrupted go on. Each run computes on one
    thread, so its result does not depend on how many run side by side. A script that calls this
    with several workers needs the usual `if __name__ == "__main__":`, since they import it.
    Folders and settings are looked at first, so what can never work is refused before any work.

    Args:
        configs: what `suites.resolve` returns, with a seed.
        folders: as many, all different.
        workers: processes; None for as many as there are cores. With 1 all run in this process.
        tell: is told how each run goes.

    Raises:
        RunFailed: a run failed, and the others are over; the message says which and why.
        StateMismatch: a folder holds another run.
        ValueError: a setting makes no sense.
        DatasetError: the data cannot be had.
        KeyboardInterrupt: ctrl-C; calling again goes on from the last checkpoints.
    """
    if not len(configs) == len(folders) == len(set(folders)):
        raise ValueError(
            f"{len(configs)} runs need a folder each; there are {len(folders)} folders, "
            f"{len(set(folders))} of them different"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not configs or (workers is not None and workers < 1):
        raise ValueError(f"workers is {workers} for {len(configs)} runs; both must be 1 or more")
    check_folders(configs, folders)
    _check_settings(configs, folders)
    count = min(workers or cores or 1, len(configs))
    over: Mapping[int, dict[str, Any]]
    if count == 1:
        over = _one_by_one(configs, folders, tell)
    else:
        over = _Pool(configs, folders, tell).run(count)
    failed = [number for number in range(len(configs)) if "error" in over[number]]
    if failed:
        first = configs[failed[0]]
        number = f"{len(failed)} of {len(configs)} runs failed; the first, "
        raise RunFailed(
            f"{number if len(configs) > 1 else ''}{first['strategy']} seed {first['seed']}: "
            f"{over[failed[0]]['error']}",
            [event["result"] for _, event in sorted(over.items()) if "result" in event],
        )
    return [over[number]["result"] for number in range(len(configs))]


def _check_settings(configs: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> None:
    """Make stream and learner of what is still to run, one seed of each, and learn nothing."""
    seen: list[dict[str, Any]] = []
    for config, folder in zip(configs, folders, strict=True):
        but_seed = {name: value for name, value in config.items() if name != "seed"}
        if but_seed in seen or (folder / RESULT).exists():
            continue
        seen.append(but_seed)
        Job({**config, "device": "cpu"}, folder).prepare()


def _one_by_one(
    configs: Sequence[Mapping[str, Any]], folders: Sequence[Path], tell: Told
) -> dict[int, dict[str, Any]]:
    over = {}
    for number, (config, folder) in enumerate(zip(configs, folders, strict=True)):
        over[number] = _end(config, folder, lambda event, n=number: tell(n, event))  # type: ignore[misc]
        tell(number, over[number])
    return over


def _end(config: Mapping[str, Any], folder: Path, tell: Event) -> dict[str, Any]:
    """Run, and return the event of its end: {"result": ...} or {"error": why}."""
    try:
        read = {"read": True} if (folder / RESULT).exists() else {}
        return {"result": Job(config, folder, tell).run(), **read}
    except (LifelongError, ValueError, OSError) as error:
        return {"error": str(error)}
    except Exception:
        return {"error": traceback.format_exc()}


class _Pool:
    """Processes that are given the next run as soon as they are free, and replaced if they die."""

    def __init__(
        self, configs: Sequence[Mapping[str, Any]], folders: Sequence[Path], tell: Told
    ) -> None:
        self.configs, self.folders, self.tell = configs, folders, tell
        self.over: dict[int, dict[str, Any]] = {}
        self.waiting = deque(range(len(configs)))
        self.processes: dict[Connection, SpawnProcess] = {}
        self.current: dict[Connection, int] = {}

    def run(self, count: int) -> dict[int, dict[str, Any]]:
        try:
            for _ in range(count):
                self._start()
            while self.current:
                for ready in wait(list(self.current)):
                    assert isinstance(ready, Connection)
                    self._hear(ready)
        finally:
            for process in self.processes.values():
                process.terminate()
            for process in self.processes.values():
                process.join()
        return self.over

    def _start(self) -> None:
        spawn = mp.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_work, args=(theirs,), daemon=True)
        with _ctrl_c_blocked():
            process.start()
        theirs.close()
        self.processes[ours] = process
        self._next(ours)

    def _next(self, pipe: Connection) -> None:
        """Give a process its next run, or let it end."""
        if not self.waiting:
            self.current.pop(pipe, None)
            pipe.close()
            return
        number = self.current[pipe] = self.waiting.popleft()
        with suppress(OSError):  # if it has died, its pipe ends, which is heard next
            pipe.send((dict(self.configs[number]), self.folders[number]))

    def _hear(self, pipe: Connection) -> None:
        number = self.current[pipe]
        try:
            event = pipe.recv()
        except (EOFError, OSError):
            event = {"error": _death(self.processes[pipe])}
        self.tell(number, event)
        if "result" not in event and "error" not in event:
            return
        self.over[number] = event
        if self.processes[pipe].is_alive():
            self._next(pipe)
            return
        del self.current[pipe]
        if self.waiting:
            self._start()


def _death(process: SpawnProcess) -> str:
    process.join(timeout=5)
    code = process.exitcode
    if code is None or code >= 0:
        return f"its process ended, with code {code}"
    name = signal.Signals(-code).name
    return f"its process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Start processes that ctrl-C does not reach even while they import: it is the parent's."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock the signal if it started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection) -> None:
    """Run what comes through the pipe until it closes, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            config, folder = pipe.recv()
            pipe.send(_end(config, folder, pipe.send))
