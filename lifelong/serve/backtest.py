"""Yesterday's stream under other strategies and settings, beside what was served."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from lifelong.core.errors import LogError
from lifelong.serve import scores
from lifelong.serve.choice import Choice
from lifelong.serve.config import Config
from lifelong.serve.log import SQLiteLog
from lifelong.serve.noting import Stretch
from lifelong.serve.past import log_of
from lifelong.serve.replayed import Replayed
from lifelong.serve.versions import write_json

AS_CONFIGURED = "as-configured"
"""The name of the service's own strategies."""
Told = Callable[[str, float], None]
"""Told how far the replay of a strategy is: its name, and a share from 0 to 1."""


def backtest(
    config: Config,
    choices: Sequence[Choice],
    out: Path,
    *,
    folder: Path | None = None,
    first: int = 1,
    last: int | None = None,
    sync: int = 1,
    workers: int = 1,
    tell: Told = lambda name, share: None,  # noqa: ARG005
) -> dict[str, Any]:
    """Replay a service's log under several choices of strategies, and compare.

    Each choice learns from the start of the log, with the service's trainer and settings, and
    answers every labelled row from `first` on before it learns from it, at the place where its
    features came. What was served answered the same rows. The service's folder is read only, and
    the service may run. A replay that was interrupted goes on in the same `out`.

    Args:
        config: of the service.
        choices: what to compare.
        out: a folder for `backtest.json`, and while it runs for checkpoints, which may hold rows.
        folder: of the service, where it is not the configuration's.
        first: the first offset whose rows are measured.
        last: where the replay ends; None for the end of the log.
        sync: steps of the learner between syncs of what would have been served.
        workers: processes that replay side by side.
        tell: told how far it is.

    Returns:
        What `backtest.json` has.

    Raises:
        ConfigError: the folder is not a service's.
        LogError: there is nothing to measure between the offsets, or the log is damaged.
        StateMismatch: `out` holds an interrupted replay with other settings.
        ValueError: a number is out of range, or a choice comes twice.
    """
    folder = config.folder if folder is None else folder
    names = [choice.name for choice in choices]
    if not names or len(set(names)) < len(names) or workers < 1:
        raise ValueError(f"choices {names}, {workers} workers; name one or more, each once")
    with log_of(folder) as log:
        stretch = _settle(log, out, first, last, sync)
    jobs = [
        Replayed(choice, config, folder, stretch, _place(out, choice.name)) for choice in choices
    ]
    results = _run(jobs, workers, tell)
    found = _together(config, folder, stretch, results)
    write_json(out / "backtest.json", found)
    shutil.rmtree(out / "jobs")
    return found


def _settle(log: SQLiteLog, out: Path, first: int, last: int | None, sync: int) -> Stretch:
    """Fix what is replayed, so that an interrupted replay goes on with the same events."""
    path = out / "jobs" / "stretch.json"
    known = json.loads(path.read_bytes()) if path.exists() else {}
    if last is None:
        last = known.get("last")
    if not log.last:
        raise LogError(f"the log in {log.folder} is empty; there is nothing to replay")
    last = log.last if last is None else last
    if not 1 <= first <= last <= log.last or sync < 0:
        raise ValueError(
            f"from {first} to {last}, sync {sync}; the log has the offsets 1 to {log.last}, and "
            "sync is 0 steps or more"
        )
    erased, begin = log.erased(1, last), known.get("begin", log.trimmed)
    if last <= begin or log.erased(first, last) == last - first + 1:
        raise LogError(f"all events from {first} to {last} have been erased or trimmed")
    if known and known["erased"] != erased:
        shutil.rmtree(path.parent)  # what it holds may be of events that were erased since
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"last": last, "erased": erased, "begin": begin})
    return Stretch(first, last, sync, erased, begin)


def _place(out: Path, name: str) -> Path:
    return out / "jobs" / "".join(c if c.isalnum() or c in "-+" else "_" for c in name)


def _run(jobs: Sequence[Replayed], workers: int, tell: Told) -> list[dict[str, Any]]:
    if workers == 1 or len(jobs) == 1:
        return [job.run(lambda share, name=job.choice.name: tell(name, share)) for job in jobs]  # type: ignore[misc]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn) as pool:
        waiting = {pool.submit(job.run): job for job in jobs}
        found = dict(waiting)
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                tell(waiting.pop(future).choice.name, 1.0)
        return [future.result() for future in found]


def _together(
    config: Config, folder: Path, stretch: Stretch, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    first = results[0]
    if not first["rows"]:
        raise LogError(
            f"no labelled row between {stretch.first} and {stretch.last}; {stretch.erased} events "
            "up to there have been erased"
        )
    return {
        "service": folder.name,
        "learner": config.learner,
        "from": stretch.first,
        "to": stretch.last,
        "sync": stretch.sync,
        "erased": stretch.erased,
        "served": {
            "rows": first["predictions"],
            "accuracy": first["served"],
            "average_accuracy": scores.average(first["served_anchors"]),
            "forgetting": scores.forgetting(first["served_anchors"]),
            "over_time": [
                {"from": part["from"], "accuracy": part["served"]} for part in first["over_time"]
            ],
        },
        "results": list(results),
    }
