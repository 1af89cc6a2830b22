"""The results of a benchmark as a file: a list with one object for each strategy and seed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lifelong.core.errors import LifelongError
from lifelong.metrics.matrix import check_matrix

Result = Mapping[str, Any]

NUMBERS = (
    "average_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
    "seconds",
    "rows_per_second",
    "peak_rss_mb",
    "memory_bytes",
)
REQUIRED = ("suite", "strategy", "seed", "accuracy", *NUMBERS, "config", "versions")


class ResultsError(LifelongError, ValueError):
    """Results that are not what the format says, or a file that does not hold any."""


def check_results(results: object, *, strict: bool = True) -> None:
    """Raise ResultsError, naming what is wrong and where, unless these are results.

    Every field is present; the numbers (but never the accuracies) may be None where they mean
    nothing. With `strict=False` only suite, strategy, seed and accuracy have to be there.

    >>> check_results([{"suite": "split-digits", "strategy": "ewc", "seed": 0}])
    Traceback (most recent call last):
        ...
    lifelong.bench.results.ResultsError: result 0 (ewc, seed 0): 'accuracy' is missing
    """
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise ResultsError(f"results are a list of objects, not {type(results).__name__}")
    if not results:
        raise ResultsError("there are no results; a report needs at least one run")
    seen: dict[tuple[object, object], int] = {}
    for index, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise ResultsError(f"result {index} is {type(result).__name__}, not an object")
        where = f"result {index} ({result.get('strategy', '?')}, seed {result.get('seed', '?')})"
        _check_fields(result, where, strict=strict)
        run = (result["strategy"], result["seed"])
        if run in seen:
            raise ResultsError(f"{where}: the same strategy and seed as result {seen[run]}")
        seen[run] = index
        _check_same(result, results[0], where)


def write_results(results: Sequence[Result], path: Path | str) -> Path:
    """Write results as JSON, whole or not at all: what was in the file stays until then.

    NaN and infinite numbers become null.

    >>> write_results([], "results.json")
    Traceback (most recent call last):
        ...
    lifelong.bench.results.ResultsError: there are no results; a report needs at least one run
    """
    plain = [_plain(result) for result in results]
    check_results(plain)
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
    return write_atomic(Path(path), (text + "\n").encode())


def read_results(path: Path | str) -> list[dict[str, Any]]:
    """Read what `write_results` wrote; raise ResultsError with the reason for anything else.

    >>> read_results("nowhere/results.json")
    Traceback (most recent call last):
        ...
    lifelong.bench.results.ResultsError: nowhere/results.json: no such file
    """
    path = Path(path)
    try:
        results = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        check_results(results)
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path}: not JSON, or cut short: {error}") from error
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: not text: {error}") from error
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from error
    found: list[dict[str, Any]] = results
    return found


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file under another name, flush it to the disk, then give it its name.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "new" / "a.txt", b"whole").read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp gives 0o600, and reports are there to be shared
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return path


def _check_same(result: Result, first: Result, where: str) -> None:
    """Raise ResultsError unless both are runs of one suite, on the same tasks."""
    pairs = {field: (result.get(field), first.get(field)) for field in ("suite", "tasks")}
    pairs["number of tasks"] = (len(result["accuracy"][0]), len(first["accuracy"][0]))
    for field, (ours, theirs) in pairs.items():
        if ours != theirs and None not in (ours, theirs):
            raise ResultsError(
                f"{where}: {field} is {ours!r}, but result 0 has {theirs!r}; "
                "a file and its report hold one suite"
            )


def _check_fields(result: Result, where: str, *, strict: bool) -> None:
    for field in REQUIRED if strict else REQUIRED[:4]:
        if field not in result:
            raise ResultsError(f"{where}: {field!r} is missing")
    for field, kind in (("suite", str), ("strategy", str), ("seed", int)):
        if not isinstance(result[field], kind) or isinstance(result[field], bool):
            raise ResultsError(f"{where}: {field!r} is {result[field]!r}, not {kind.__name__}")
    try:
        tasks = check_matrix(result["accuracy"])
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(f"{where}: {error}") from error
    for field in (*NUMBERS, "growth_mb", "plasticity", "chance"):
        value = result.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ResultsError(f"{where}: {field!r} is {value!r}, not a number or null")
    for field in ("config", "versions"):
        if not isinstance(result.get(field, {}), Mapping):
            raise ResultsError(f"{where}: {field!r} is {result[field]!r}, not an object")
    names = result.get("tasks")
    if names is not None and (not isinstance(names, list) or len(names) != tasks):
        raise ResultsError(f"{where}: 'tasks' is {names!r}, not a list of {tasks} names")
    for index, sample in enumerate(result.get("curve") or ()):
        _check_sample(sample, tasks, f"{where}: curve[{index}]")


def _check_sample(sample: object, tasks: int, where: str) -> None:
    """Raise ResultsError unless this is {"rows": int, "accuracy": [a number or null a task]}."""
    if not isinstance(sample, Mapping) or not {"rows", "accuracy"} <= sample.keys():
        raise ResultsError(f"{where} needs 'rows' and 'accuracy', not {sample!r}")
    values = sample["accuracy"]
    if not isinstance(values, list) or len(values) != tasks:
        raise ResultsError(f"{where} is not a list of {tasks} accuracies: {values!r}")
    for value in values:
        if value is not None and not (isinstance(value, Real) and 0.0 <= float(value) <= 1.0):
            raise ResultsError(f"{where} has the accuracy {value!r}; it goes from 0 to 1, or null")
    if not isinstance(sample["rows"], int):
        raise ResultsError(f"{where} has rows {sample['rows']!r}, not a whole number")


def _plain(value: Any) -> Any:
    """Turn a nest into what JSON has: paths into strings, numbers that are not finite into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    raise ResultsError(f"{value!r} ({type(value).__name__}) has no place in a results file")


def _refuse_constant(name: str) -> None:
    raise ResultsError(f"{name} is not JSON; numbers that do not exist are null")
