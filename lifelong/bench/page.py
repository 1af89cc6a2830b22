"""The parts of a report's page: what its template shows, as plain data and finished charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lifelong.bench import charts
from lifelong.bench.axes import Axis
from lifelong.bench.charts import Dot, Line
from lifelong.bench.results import Result
from lifelong.bench.statistics import (
    DASH,
    Summary,
    by_strategy,
    format_bytes,
    format_interval,
    label,
    mean_matrix,
)
from lifelong.metrics.confidence import Interval, interval
from lifelong.metrics.matrix import anytime_accuracy

SIZES = {"wide": (1040, 400), "narrow": (360, 330)}


def task_names(results: Sequence[Result]) -> list[str]:
    """Return the tasks' names; their numbers, from 1, where the runs do not name them.

    >>> task_names([{"accuracy": [[0.5, 0.5]]}])
    ['1', '2']
    """
    named = next((run["tasks"] for run in results if run.get("tasks")), None)
    count = len(results[0]["accuracy"][0])
    return [str(name) for name in named] if named else [str(i + 1) for i in range(count)]


def colors(rows: Sequence[Summary]) -> dict[str, str]:
    """Return each strategy's color: grey for what one compares with, a hue for the others.

    >>> from lifelong.bench.statistics import summary
    >>> run = {"suite": "s", "seed": 0, "strategy": "ewc", "accuracy": [[0.5]]}
    >>> colors(summary([run]))
    {'ewc': 'var(--s0, #0069a8)'}
    """
    others = [row["strategy"] for row in rows if not row["baseline"] and not row["bound"]]
    hues = {name: charts.series_color(index) for index, name in enumerate(others)}
    return {
        row["strategy"]: charts.INK if row["bound"] else hues.get(row["strategy"], charts.MUTED)
        for row in rows
    }


def table(rows: Sequence[Summary], color: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the main table, best first: each cell's text and the value it sorts by.

    >>> from lifelong.bench.statistics import summary
    >>> run = {"suite": "s", "seed": 0, "strategy": "ewc", "accuracy": [[0.5]]}
    >>> [row] = table(summary([run]), {"ewc": "red"})
    >>> row["cells"][0]
    {'text': '50.0', 'spread': '', 'value': 0.5}
    """
    best = sorted(rows, key=lambda row: -row["average_accuracy"].mean)
    return [
        {
            "label": row["label"],
            "strategy": row["strategy"],
            "color": color[row["strategy"]],
            "bound": row["bound"],
            "share": f"{row['average_accuracy'].mean * 100:.2f}%",
            "cells": [
                _cell(row["average_accuracy"], 100),
                _cell(row["forgetting"], 100),
                _cell(row["backward_transfer"], 100),
                _cell(row["forward_transfer"], 100),
                _cell(row["plasticity"], 100),
                _cell(row["seconds"], 1),
                _cell(row["ratio"], 1, digits=2),
                _cell(row["growth_mb"], 1),
                _bytes_cell(row["memory_bytes"]),
            ],
        }
        for row in best
    ]


def over_time(results: Sequence[Result], color: Mapping[str, str]) -> dict[str, str]:
    """Return the chart of the mean accuracy over the tasks seen, for a wide and a narrow page."""
    names = task_names(results)
    lines = []
    for strategy, runs in by_strategy(results).items():
        histories = [anytime_accuracy(run["accuracy"]) for run in runs]
        known = [history for history in histories if history]
        name = label(strategy)
        if not known:
            level = interval([sum(run["accuracy"][-1]) / len(names) for run in runs]).mean
            ends = [(1.0, level), (float(len(names)), level)]
            lines.append(Line(name, ends, color[strategy], _ending(name, level), dashed=True))
            continue
        found = [interval(values) for values in zip(*known, strict=True)]
        points = [(i + 1.0, one.mean) for i, one in enumerate(found)]
        band = [
            (one.low, one.high) for one in found if one.low is not None and one.high is not None
        ]
        text = _ending(name, points[-1][1])
        lines.append(Line(name, points, color[strategy], text, band=band))
    axis = Axis.steps(names, "after learning task")
    title = "Mean accuracy over the tasks seen so far"
    return _both(lambda w, h: charts.line_chart(lines, axis, title=title, width=w, height=h))


def per_task(results: Sequence[Result], color: Mapping[str, str]) -> list[dict[str, str]]:
    """Return a small chart for each strategy that learned task by task: a line for each task."""
    names = task_names(results)
    found = []
    for strategy, runs in by_strategy(results).items():
        matrix = mean_matrix(runs)
        if len(matrix) != len(names):
            continue
        curve = _mean_curve(runs)
        lines = []
        for j, name in enumerate(names):
            points = [(i + 1.0, matrix[i][j]) for i in range(j, len(names))]
            if curve:
                samples = [(float(rows), seen[j]) for rows, seen in curve]
                points = [(rows, value) for rows, value in samples if value is not None]
            lines.append(_task_line(name, str(j + 1), points, j, len(names), marks=not curve))
        if curve:
            most = max(rows for rows, _ in curve)
            axis = Axis.linear([most], "rows learned from", _thousands, tight=True)
        else:
            axis = Axis.steps(names, "after learning task")
        title = f"{label(strategy)}: accuracy on each task over time"
        chart = charts.line_chart(lines, axis, title=title, width=360, height=250)
        found.append({"label": label(strategy), "color": color[strategy], "chart": chart})
    return found


def heat_maps(results: Sequence[Result], color: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the accuracy matrix of each strategy, averaged over seeds, as a heat map."""
    names = task_names(results)
    found = []
    for strategy, runs in by_strategy(results).items():
        matrix = mean_matrix(runs)
        title = f"{label(strategy)}: accuracy on each task (across) after each task (down)"
        chart = charts.heat_map(matrix, title=title, tasks=names)
        found.append({"label": label(strategy), "color": color[strategy], "chart": chart})
    return found


def costs(rows: Sequence[Summary], color: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the charts of accuracy against bytes kept and against time, where there are any."""
    kept = {row["strategy"]: row["memory_bytes"] for row in rows if row["memory_bytes"]}
    took = {row["strategy"]: row["seconds"] for row in rows if row["seconds"]}
    found = []
    if any(one.mean > 0 for one in kept.values()):
        values = [one.mean for one in kept.values()]
        axis = Axis.logarithmic(values, "bytes kept between tasks", format_bytes)
        found.append(_cost("Accuracy against memory", kept, rows, axis, color))
    if took:
        values = [one.mean for one in took.values()]
        axis = Axis.linear(values, "seconds of training", "{:g}".format)
        found.append(_cost("Accuracy against time", took, rows, axis, color))
    return found


def settings(results: Sequence[Result]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the settings that all runs share, and for each strategy those that are its own.

    >>> common = {"strategy": "ewc", "config": {"lr": 0.1, "strength": 5}}
    >>> settings([common, {"strategy": "si", "config": {"lr": 0.1}}])
    ({'lr': '0.1'}, {'EWC': {'strength': '5'}})
    """
    texts = [{key: _plain(value) for key, value in _flat(run.get("config", {}))} for run in results]
    shared = {
        key: value
        for key, value in texts[0].items()
        if all(text.get(key) == value for text in texts)
    }
    own: dict[str, dict[str, str]] = {}
    for run, text in zip(results, texts, strict=True):
        rest = {key: value for key, value in text.items() if key not in shared and key != "seed"}
        if rest:
            own.setdefault(label(run["strategy"]), {}).update(rest)
    return shared, own


def _cost(
    title: str,
    values: Mapping[str, Interval],
    rows: Sequence[Summary],
    axis: Axis,
    color: Mapping[str, str],
) -> dict[str, Any]:
    dots = [
        Dot(
            row["label"],
            values[row["strategy"]].mean,
            row["average_accuracy"].mean,
            color[row["strategy"]],
            row["average_accuracy"].low,
            row["average_accuracy"].high,
            hollow=row["bound"],
        )
        for row in rows
        if row["strategy"] in values
    ]
    return {
        "title": title,
        "charts": {
            "wide": charts.scatter(dots, axis, title=title, width=500, height=340),
            "narrow": charts.scatter(dots, axis, title=title, width=360, height=300),
        },
    }


def _both(draw: Callable[[int, int], str]) -> dict[str, str]:
    return {name: draw(width, height) for name, (width, height) in SIZES.items()}


def _ending(name: str, value: float) -> str:
    return f"{name} {charts.percent(value)}"


def _task_line(
    name: str, number: str, points: list[tuple[float, float]], j: int, count: int, *, marks: bool
) -> Line:
    text = number if count <= 8 else " "
    return Line(name, points, charts.ramp_color(j, count), text, marks=marks)


def _mean_curve(runs: Sequence[Result]) -> list[tuple[int, list[float | None]]]:
    """Average the curves of runs that were sampled at the same rows; otherwise there is none."""
    curves = [run.get("curve") or [] for run in runs]
    rows = [[sample["rows"] for sample in curve] for curve in curves]
    if not rows[0] or any(other != rows[0] for other in rows):
        return []
    found = []
    for samples in zip(*curves, strict=True):
        columns = zip(*(sample["accuracy"] for sample in samples), strict=True)
        means = [None if None in column else sum(column) / len(column) for column in columns]
        found.append((samples[0]["rows"], means))
    return found


def _thousands(rows: float) -> str:
    return f"{rows / 1000:g}k" if rows >= 1000 else f"{rows:g}"


def _cell(value: Interval | None, scale: float, digits: int = 1) -> dict[str, Any]:
    text, _, half = format_interval(value, scale, digits).partition(" ± ")
    return {"text": text, "spread": half, "value": None if value is None else value.mean}


def _bytes_cell(value: Interval | None) -> dict[str, Any]:
    text = DASH if value is None else format_bytes(value.mean).replace(" ", "\N{NO-BREAK SPACE}")
    return {"text": text, "spread": "", "value": None if value is None else value.mean}


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or DASH
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: DASH}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
