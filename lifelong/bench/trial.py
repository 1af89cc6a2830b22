"""The best few methods tried on a stream of one's own, within a time, to decide by evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from lifelong.bench.advice import CHEAP, Advice, Candidate, facts, rank
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.constraints import Constraints, Increment
from lifelong.bench.folder import check_beside
from lifelong.bench.runner import RunFailed, Told, run_all
from lifelong.bench.statistics import Summary, format_bytes, format_interval, summary
from lifelong.bench.stored import NOTED, keeps_rows
from lifelong.bench.suites import resolve
from lifelong.metrics.confidence import Interval

VALIDATION: Mapping[str, Any] = {"validation": 0.2, "on": "valid"}
"""The decision is made on training rows that are kept apart; test rows stay unseen."""
BESIDE = 16
"""Bytes, at most, that are noted of a row that is kept and that no storage bounds."""
UNKNOWN_COST = 3.0
"""Taken for a method whose cost was never measured, to tell whether it fits into the time."""


class _TimeIsUp(Exception):
    """A run was not over in time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What trying methods came to.

    Attributes:
        results: of all runs, as `lifelong run` writes them.
        candidates: those that kept to the constraints, best first, with what was measured.
        left_out: the others that were to be tried, and why they are none of them.
        because: why the first is the first.
    """

    results: list[dict[str, Any]]
    candidates: tuple[Candidate, ...]
    left_out: Mapping[str, str]
    because: str


def known_of(constraints: Constraints, suite: str, given: Mapping[str, Any]) -> Constraints:
    """Fill in what a suite tells: the kind of increments, tasks, classes, and sizes.

    Raises:
        ValueError: it tells another kind of increments, or its networks are not pretrained.

    Example:
        >>> known_of(Constraints(), "digits", {}).row_bytes
        64
    """
    if constraints.pretrained:
        raise ValueError(
            "pretrained is set, but suites start from random weights, so nothing would be learned "
            "about it there; leave out --measure or --pretrained"
        )
    config = {**resolve(suite, "fine-tune", given), "seed": 0, "device": "cpu"}
    kind: Increment = "domain"
    if config["head"] == "multi" or config["scenario"] == "task-incremental":
        kind = "task"
    elif config["scenario"] in ("class-incremental", "blurry"):
        kind = "class"
    if constraints.settled().increment != kind and (constraints.increment or kind == "class"):
        raise ValueError(
            f"increment is {constraints.settled().increment!r}, but the tasks of {suite} are of "
            f"the kind {kind!r}; leave it out, or choose a suite, or a scenario by --set"
        )
    stream = stream_of(config)
    x, labels = stream.tasks[0].train.x, {int(y) for task in stream.tasks for y in task.train.y}
    rows = {"row_bytes": x[0].numel() * x.element_size()} if not isinstance(x, dict) else {}
    found: dict[str, Any] = {
        "tasks": len(stream),
        "classes": len(labels),
        "parameters": sum(p.numel() for p in learner_of(config, stream).model.parameters()),
        **rows,
    }
    lacking = {name: n for name, n in found.items() if getattr(constraints, name) is None}
    told = kind == "task" or constraints.task_known
    return replace(constraints, increment=kind, task_known=told or None, **lacking)


def measure(
    advice: Advice,
    suite: str,
    out: Path,
    *,
    minutes: float,
    count: int = 4,
    seeds: Sequence[int] = (0, 1, 2),
    given: Mapping[str, Any] | None = None,
    workers: int | None = None,
    tell: Told = lambda number, event: None,  # noqa: ARG005
) -> Trial:
    """Try the best candidates of an advice on a suite, beside fine-tuning and all rows at once.

    The rule is that of `rank` alone: the most accurate of those that kept to the constraints, and
    of those whose mean lies within its interval the cheaper.

    Args:
        advice: of which the first `count` are tried.
        suite: its name.
        out: a folder for the runs; the same call goes on where it was stopped.
        minutes: how long all of it may take.
        count: how many candidates.
        seeds: of each.
        given: settings of the suite.
        workers: as in `run_all`.
        tell: is told how each run goes, numbered through in the order of `plan`.

    Raises:
        ValueError: no candidate was over in time and kept to the constraints, or no time is given.
        StateMismatch: the folder holds runs with other settings.
    """
    if not 0 < minutes < float("inf") or count < 1:
        told = f"minutes is {minutes} and count {count}"
        raise ValueError(f"{told}; give a time, and one candidate or more")
    deadline = time.monotonic() + 60 * minutes
    configs = plan(advice, suite, count=count, seeds=seeds, given=given or {})
    check_beside(out / "jobs", configs)
    costs = {one.method: one.cost or UNKNOWN_COST for one in advice.candidates}
    results, left_out = _tried(configs, out, deadline, costs, workers=workers, tell=tell)
    return _decided(advice, results, left_out, minutes)


def _tried(
    configs: Sequence[dict[str, Any]],
    out: Path,
    deadline: float,
    costs: Mapping[str, float],
    *,
    workers: int | None,
    tell: Told,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run what is over in time, method by method, and say why the others were left out.

    Fine-tuning comes first; how long the others take is reckoned from it. What would not be over
    in time is not begun, and what is not over in time is stopped.
    """
    results: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    once = 0.0  # what fine-tuning took
    for name, runs in groupby(enumerate(configs), key=lambda pair: pair[1]["strategy"]):
        places, own = zip(*runs, strict=True)
        expected = once * costs.get(name, 1.0)
        if expected and time.monotonic() + expected > deadline:
            left_out[name] = f"it would have taken about {expected:.0f} s, more than was left"
            continue
        began = time.monotonic()
        try:
            heed = _until(deadline, tell, places[0])
            results += run_all(own, _folders(out, own), workers=workers, tell=heed)
        except _TimeIsUp:
            left_out[name] = "it was not over when the time was"
        except RunFailed as error:
            left_out[name] = str(error)
        once = once or time.monotonic() - began
    return results, left_out


def _until(deadline: float, tell: Told, first: int) -> Told:
    """Pass on what runs tell, numbered from `first` on, and stop them when the time is up."""

    def heed(number: int, event: dict[str, Any]) -> None:
        tell(first + number, event)
        if time.monotonic() > deadline and "result" not in event:
            raise _TimeIsUp

    return heed


def _folders(out: Path, configs: Sequence[Mapping[str, Any]]) -> list[Path]:
    return [out / "jobs" / f"{config['strategy']}-{config['seed']}" for config in configs]


def plan(
    advice: Advice, suite: str, *, count: int, seeds: Sequence[int], given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Settle the runs of a trial: fine-tuning, the best candidates, all rows at once."""
    chosen: list[tuple[str, dict[str, Any]]] = [("fine-tune", {})]
    chosen += [(one.method, dict(one.settings)) for one in advice.candidates[:count]]
    return [
        {**resolve(suite, name, {**VALIDATION, **given, **_owned(name, own)}), "seed": seed}
        for name, own in [*chosen, ("joint", {})]
        for seed in seeds
    ]


def _owned(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in settings.items()}


def _decided(
    advice: Advice, results: list[dict[str, Any]], left_out: dict[str, str], minutes: float
) -> Trial:
    rows = {row["strategy"]: row for row in summary(results)} if results else {}
    kept = []
    for one in advice.candidates:
        row = rows.get(one.method)
        if row is None:
            continue
        measured = _measured(one, rows, advice.constraints)
        broken = _broken(measured, advice.constraints)
        if broken is None:
            kept.append(measured)
        else:
            left_out[one.method] = broken
    if not kept:
        told = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(
            f"in {minutes:g} minutes no candidate was measured that keeps to the constraints "
            f"({told}); give more minutes, try more candidates, or relax what they broke"
        )
    ranked, because = rank(kept, advice.constraints.place)
    return Trial(results, tuple(ranked), left_out, because + _needless(ranked, rows))


def _needless(ranked: Sequence[Candidate], rows: Mapping[str, Summary]) -> str:
    """Say where fine-tuning is even with the most accurate."""
    bare = rows.get("fine-tune")
    best = max((one.accuracy for one in ranked if one.accuracy), key=lambda own: own.mean)
    if bare is None or 100 * bare["average_accuracy"].mean < best.mean - (best.half or 0.0):
        return ""
    return (
        f"; fine-tuning came to {_percent(bare)}, no worse within that interval: this stream does "
        "not show that anything is forgotten"
    )


def _percent(row: Summary) -> str:
    return f"{format_interval(row['average_accuracy'], 100)} %"


def _measured(one: Candidate, rows: Mapping[str, Summary], c: Constraints) -> Candidate:
    row = rows[one.method]
    own, ratio, kept = row["average_accuracy"], row["ratio"], row["memory_bytes"]
    half = None if own.half is None else 100 * own.half
    good, bad = facts(one.method, c)
    beside = [
        f"{rows[name]['label']} {_percent(rows[name])}"
        for name in ("fine-tune", "joint")
        if name in rows
    ]
    reasons = [f"{_percent(row)} on rows kept apart ({'; '.join(beside)})"]
    doubts: list[str] = []
    if ratio is not None:
        told = f"x{ratio.mean:.2f} the time of fine-tuning, measured"
        (reasons if ratio.mean < CHEAP else doubts).append(told)
    if kept is not None and isinstance(c.storage, int) and kept.mean > c.storage:
        doubts.append(
            f"kept {format_bytes(kept.mean)}, of which what is noted beside rows, {BESIDE} bytes "
            f"each at most, is not counted towards the {format_bytes(c.storage)}"
        )
    elif kept is not None:
        reasons.append(f"kept {format_bytes(kept.mean)}")
    return replace(
        one,
        # What was measured elsewhere is no reason beside what was measured here.
        reasons=(*reasons, *(text for text in good if "%" not in text)),
        doubts=(*doubts, *bad),
        accuracy=Interval(100 * own.mean, None, half, own.count),
        cost=None if ratio is None else ratio.mean,
        least=None if kept is None else round(kept.mean),
        accuracy_of=one.method,
        cost_of=one.method,
    )


def _broken(one: Candidate, c: Constraints) -> str | None:
    room = float(c.storage) if isinstance(c.storage, int) else float("inf")
    if keeps_rows(one.method):
        room += BESIDE * room / (NOTED + (c.row_bytes or 0))
    if one.least is not None and one.least > room:
        return f"it kept {format_bytes(one.least)}, more than the storage"
    if c.compute is not None and one.cost is not None and one.cost > c.compute:
        return f"it took x{one.cost:.2f} the time of fine-tuning, more than may be paid"
    return None
