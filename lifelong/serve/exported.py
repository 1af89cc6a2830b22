"""What the trainer and the log know, as metrics for Prometheus."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lifelong.core.errors import LifelongError
from lifelong.serve.log import SQLiteLog

LATE = 60.0
"""Seconds after which a trainer that has not said how it is counts as down."""
REASONS = ("schema", "quota", "norm", "loss", "range", "error")
"""Reasons of the quarantine that have a value of their own; the others are "other"."""
STATES = ("none", "undecided", "promote", "refuse")
_NUMBERS = {
    "lifelong_trainer_offset": ("offset", "Offset of the last event taken in"),
    "lifelong_trainer_behind_events": ("behind", "Events of the log not taken in yet"),
    "lifelong_trainer_rows": ("rows", "Rows learned from"),
    "lifelong_trainer_steps": ("steps", "Steps of the learner"),
    "lifelong_trainer_period": ("period", "Number of the open period"),
    "lifelong_accuracy_before_learning": (
        "accuracy_before_learning",
        "Share of rows answered rightly before they were learned from, in the open period",
    ),
    "lifelong_candidate_version": ("candidate", "Version on trial"),
}


class TrainerStatus(Collector):
    """The metrics of `trainer/status.json`, read at each scrape.

    A file that is missing, damaged or old means that the trainer is down: `lifelong_trainer_up` is
    0, and what is not known is not there. The number of series is fixed.

    Args:
        folder: the trainer's.
        clock: seconds since 1970.

    Example:
        >>> found = {metric.name: metric for metric in TrainerStatus(Path("none")).collect()}
        >>> found["lifelong_trainer_up"].samples[0].value
        0.0
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = folder / "status.json", clock

    def collect(self) -> Iterator[Metric]:
        """Give the metrics, with what the file says now."""
        told, now = self._read(), self._clock()
        age = now - _number(told.get("time"))
        up = 0.0 if math.isnan(age) or age > LATE else 1.0
        yield _gauge("lifelong_trainer_up", "Whether the trainer has lately said how it is", up)
        yield _gauge("lifelong_trainer_status_age_seconds", "Since the trainer said so", age)
        for name, (field, about) in _NUMBERS.items():
            yield _gauge(name, about, _number(told.get(field)))
        saved = _part(told, "checkpoint")
        since = now - _number(saved.get("time"))
        yield _gauge("lifelong_checkpoint_age_seconds", "Since the last checkpoint", since)
        offset = _number(saved.get("offset"))
        yield _gauge("lifelong_checkpoint_offset", "Offset of the last checkpoint", offset)
        rows = sum(_number(n) for n in _part(told, "anchors").values()) if told else math.nan
        yield _gauge("lifelong_anchor_rows", "Rows held out to notice forgetting with", rows)
        yield _by(
            "lifelong_anchor_accuracy",
            "Share of the anchors answered rightly when the candidate was last judged",
            "arm",
            {arm: _part(told, "anchor_accuracy").get(arm) for arm in ("champion", "candidate")},
        )
        yield _by(
            "lifelong_quarantine_rows",
            "Rows that were not learned from, of those the log still has",
            "reason",
            _by_reason(_part(told, "quarantine")) if told else {},
        )
        yield _by(
            "lifelong_candidate_state",
            "1 for what has been found of the version on trial",
            "state",
            {state: float(state == _state(told)) for state in STATES} if told else {},
        )

    def _read(self) -> dict[str, Any]:
        try:
            told = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}


class LogStatus(Collector):
    """How large the log is and where it begins.

    Args:
        log: the one that this process writes.
    """

    def __init__(self, log: SQLiteLog) -> None:
        self._log = log

    def collect(self) -> Iterable[Metric]:
        """Give the metrics; none where the log cannot be read."""
        try:
            last, begin, size = self._log.last, self._log.trimmed, self._log.size
        except LifelongError:
            return []
        return [
            _gauge("lifelong_log_offset", "Offset of the newest event", last),
            _gauge("lifelong_log_trimmed_offset", "Offset up to which events were trimmed", begin),
            _gauge("lifelong_log_bytes", "Size of the log without free pages", size),
        ]


def _state(told: dict[str, Any]) -> str:
    if told.get("candidate") is None:
        return "none"
    verdict = told.get("verdict")
    return verdict if verdict in STATES else "undecided"


def _by_reason(counts: dict[str, Any]) -> dict[str, float]:
    found = dict.fromkeys((*REASONS, "other"), 0.0)
    for reason, rows in counts.items():
        found[reason if reason in REASONS else "other"] += _number(rows)
    return found


def _part(told: dict[str, Any], name: str) -> dict[str, Any]:
    part = told.get(name)
    return part if isinstance(part, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about)
    if not math.isnan(value):
        family.add_metric([], value)
    return family


def _by(name: str, about: str, label: str, values: dict[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, number in values.items():
        if not math.isnan(_number(number)):
            family.add_metric([value], _number(number))
    return family
