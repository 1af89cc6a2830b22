"""What a folder of runs holds, read before anything is computed into it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lifelong.bench.recipes import training
from lifelong.bench.results import ResultsError, check_results
from lifelong.core import checkpoint
from lifelong.core.errors import CheckpointError, StateMismatch

CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"


def finished(folder: Path) -> dict[str, Any] | None:
    """Read the result of the run in a folder; None if no run is over there.

    Raises:
        ResultsError: the file is damaged.

    Example:
        >>> finished(Path("nowhere")) is None
        True
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
        check_results([result])
        _ = result["config"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is damaged ({error}); delete it to run again") from error
    return result


def interrupted(folder: Path) -> dict[str, Any] | None:
    """Read the checkpoint of the run in a folder; None if there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = checkpoint.load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete {folder} to run from the start") from error
    return state


def anything_saved(folders: Sequence[Path]) -> bool:
    """Say whether there is a run to go on with, or to read, in any of these folders.

    Example:
        >>> anything_saved([Path("nowhere")])
        False
    """
    return any((folder / name).exists() for folder in folders for name in (CHECKPOINT, RESULT))


def check_same(folder: Path, there: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """See that the run in a folder is of this configuration.

    Raises:
        StateMismatch: it is of another; what differs is told.
    """
    before, now = _plain(there), _plain(own)
    differing = [
        f"{name} {before.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise StateMismatch(
            f"{folder} holds a run with other settings ({'; '.join(differing)}); "
            "choose another --out"
        )


def check_folders(configs: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> None:
    """See that each folder is empty, or holds the run that is to be there.

    Raises:
        StateMismatch: one holds another run.
        ResultsError, CheckpointError: what it holds is damaged.
    """
    for config, folder in zip(configs, folders, strict=True):
        held = finished(folder) or interrupted(folder)
        if held is not None:
            check_same(folder, held["config"], config)


def check_beside(jobs: Path, configs: Sequence[Mapping[str, Any]]) -> None:
    """See that no run beside these has other settings, whichever strategy and seed it is of.

    Settings of a strategy are compared with those of the same strategy, the suite's with all but
    what one of the two brings along.

    Args:
        jobs: the folder that holds a folder for each run.
        configs: of the runs that are to be there.

    Raises:
        StateMismatch: one has.
    """
    own = {config["strategy"]: config for config in configs}
    for folder in sorted(jobs.glob("*/")):
        held = None
        with suppress(ResultsError, CheckpointError):  # it is none of these runs
            held = finished(folder) or interrupted(folder)
        if held is None:
            continue
        there = dict(held["config"])
        same = own.get(there["strategy"])
        now = dict(same or configs[0])
        brought = {**training(there["strategy"]), **training(now["strategy"])}
        for part in (there, now):
            for name in ("seed",) if same else ("seed", "strategy", "settings", *brought):
                part.pop(name, None)
        check_same(folder, there, now)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it is after a way through a file."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return plain
