"""The report's charts as PNG files, for papers and slides (drawn by matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lifelong.bench.charts import SERIES
from lifelong.bench.page import task_names
from lifelong.bench.results import Result, write_atomic
from lifelong.bench.statistics import Summary, by_strategy, is_bound, label, mean_matrix, summary
from lifelong.core.errors import MissingExtra
from lifelong.metrics.confidence import interval
from lifelong.metrics.matrix import anytime_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1d1c1a", "#625f58", "#e2ded5"


def write_plots(results: Sequence[Result], out: Path) -> list[Path]:
    """Write accuracy.png, tasks.png, matrix.png and, where costs are known, cost.png.

    >>> import tempfile
    >>> run = {"suite": "s", "strategy": "ewc", "seed": 0, "accuracy": [[0.9, 0.1], [0.5, 0.9]]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_plots([run], Path(folder))]
    ['accuracy.png', 'tasks.png', 'matrix.png']
    """
    rows = summary(results)
    figures = {
        "accuracy": _accuracy(results, rows),
        "tasks": _tasks(results),
        "matrix": _matrices(results),
    }
    if any(row["seconds"] for row in rows):
        figures["cost"] = _cost(rows)
    return [_save(figure, out / f"{name}.png") for name, figure in figures.items()]


def frontier(series: Mapping[str, Mapping[float, float]]) -> list[tuple[float, float, str]]:
    """Pick the points that no other reaches with as little or less: x, the value and the name.

    Example:
        >>> frontier({"a": {1: 0.5, 9: 0.6}, "b": {5: 0.7}, "c": {5: 0.4}})
        [(1, 0.5, 'a'), (5, 0.7, 'b')]
    """
    points = [(x, -y, name) for name, values in series.items() for x, y in values.items()]
    best: list[tuple[float, float, str]] = []
    for x, negative, name in sorted(points):
        if not best or -negative > best[-1][1]:
            if best and best[-1][0] == x:
                continue
            best.append((x, -negative, name))
    return best


def write_frontier(
    series: Mapping[str, Mapping[float, Sequence[float]]], path: Path, x_label: str, y_label: str
) -> Path:
    """Draw the means of each name by x, on a log scale, and the most that any has for so much x.

    What is on that frontier has a color; the others are grey, and named where they are one point.

    Args:
        series: by name, and by x, the values of several runs, from 0 to 1.
        path: of the PNG file.
        x_label: what x is.
        y_label: what the values are.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = {"replay": {1e3: [0.7, 0.8], 1e4: [0.9, 0.9]}, "lwf": {1e5: [0.4]}}
    ...     write_frontier(found, Path(folder, "a.png"), "bytes", "accuracy").name
    'a.png'
    """
    figure, [axes] = _figure(1, 8.0, 5.6)
    means = {
        name: {x: sum(values) / len(values) for x, values in sorted(runs.items())}
        for name, runs in series.items()
    }
    best = frontier(means)
    leading = list(dict.fromkeys(name for _, _, name in best))
    marks = "osD^vP*X"
    for name, found in sorted(means.items(), key=lambda item: item[0] in leading):
        x, y = list(found), list(found.values())
        if name in leading:
            number = leading.index(name)
            color, mark = SERIES[number % len(SERIES)], marks[number % len(marks)]
            axes.plot(x, y, color=color, marker=mark, markersize=6, label=_safe(name))
            continue
        axes.plot(x, y, color="#b5b0a6", marker="o", markersize=3, linewidth=0.9)
        if len(x) == 1:
            axes.annotate(_safe(name), (x[0], y[0]), (4, 4), textcoords="offset points",
                          fontsize=7, color=MUTED)  # fmt: skip
    reach = [*[x for x, _, _ in best], max(x for found in means.values() for x in found)]
    level = [*[y for _, y, _ in best], best[-1][1]]
    axes.step(reach, level, where="post", color=INK, linestyle=":", label="the most so far")
    axes.plot([], [], color="#b5b0a6", marker="o", markersize=3, label="others")
    _dress(axes, None, y_label)
    axes.set_xscale("log")
    axes.set_xlabel(x_label, color=MUTED)
    figure.legend(loc="outside right center", frameon=False)
    return _save(figure, path)


def _accuracy(results: Sequence[Result], rows: Sequence[Summary]) -> Figure:
    names = task_names(results)
    figure, [axes] = _figure(1, 7.0, 4.0)
    steps = list(range(1, len(names) + 1))
    for strategy, runs in by_strategy(results).items():
        color, name = _color(strategy, rows), _safe(label(strategy))
        known = [history for run in runs if (history := anytime_accuracy(run["accuracy"]))]
        if not known:
            level = sum(mean_matrix(runs)[-1]) / len(names)
            axes.axhline(level, color=color, linestyle="--", linewidth=1.5, label=name)
            continue
        found = [interval(values) for values in zip(*known, strict=True)]
        means = [one.mean for one in found]
        axes.plot(steps, means, color=color, marker="o", markersize=4, label=name)
        if found[0].half is not None:
            low, high = ([one.mean + sign * (one.half or 0.0) for one in found] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    _dress(axes, names, "mean accuracy over tasks seen")
    figure.legend(loc="outside right center", frameon=False)
    return figure


def _tasks(results: Sequence[Result]) -> Figure:
    names = task_names(results)
    groups = {
        strategy: mean_matrix(runs)
        for strategy, runs in by_strategy(results).items()
        if not is_bound(runs[0])
    }
    figure, panels = _figure(len(groups), 3.2, 2.6)
    for axes, (strategy, matrix) in zip(panels, groups.items(), strict=False):
        for j, name in enumerate(names):
            steps = list(range(j + 1, len(names) + 1))
            values = [matrix[i][j] for i in range(j, len(names))]
            color = _ramp(j / max(len(names) - 1, 1))
            axes.plot(steps, values, color=color, marker="o", markersize=3, label=_safe(name))
        axes.set_title(_safe(label(strategy)), loc="left", fontsize=10, color=INK)
        _dress(axes, names, "accuracy")
    if groups and len(names) <= 12:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, title="task")
    return figure


def _matrices(results: Sequence[Result]) -> Figure:
    names = [_safe(name) for name in task_names(results)]
    groups = by_strategy(results)
    figure, panels = _figure(len(groups), max(3.0, 0.5 * len(names)), max(2.6, 0.4 * len(names)))
    for axes, (strategy, runs) in zip(panels, groups.items(), strict=False):
        matrix = mean_matrix(runs)
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                color = "white" if value > 0.6 else INK
                axes.text(j, i, f"{value * 100:.0f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(matrix)), names if len(matrix) == len(names) else ["all"])
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)  # one row is as high as in the others
        axes.tick_params(length=0, colors=MUTED)
        axes.spines[:].set_visible(False)
        axes.set_title(_safe(label(strategy)), loc="left", fontsize=10, color=INK)
    return figure


def _cost(rows: Sequence[Summary]) -> Figure:
    figure, panels = _figure(2, 4.2, 3.4)
    kept = [row["memory_bytes"].mean for row in rows if row["memory_bytes"]]
    for axes, field, x_label in zip(
        panels, ("memory_bytes", "seconds"), ("bytes kept", "seconds of training"), strict=True
    ):
        for row in rows:
            value = row["memory_bytes"] if field == "memory_bytes" else row["seconds"]
            if value is None:
                continue
            mean = row["average_accuracy"]
            color = _color(row["strategy"], rows)
            name = _safe(row["label"])
            axes.errorbar(
                value.mean, mean.mean, yerr=mean.half, fmt="o", color=color, capsize=3, label=name
            )
        _dress(axes, None, "average accuracy")
        axes.set_xlabel(x_label, color=MUTED)
        axes.margins(x=0.2)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    positive = [value for value in kept if value > 0]
    if positive:
        panels[0].set_xscale("symlog", linthresh=min(positive) / 2)
    return figure


def _figure(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with at least one pair of axes, in rows of three. No global state is used."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", error) from error
    across = min(max(count, 1), 3)
    down = -(-max(count, 1) // across)
    figure = Figure(figsize=(width * across, height * down), dpi=160, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    panels = list(grid.flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _dress(axes: Axes, names: Sequence[str] | None, y_label: str) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f} %")
    axes.set_ylabel(y_label, color=MUTED)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, colors=MUTED)
    if names is not None:
        axes.set_xticks(range(1, len(names) + 1), [str(i + 1) for i in range(len(names))])
        axes.set_xlabel("after learning task", color=MUTED)


def _color(strategy: str, rows: Sequence[Summary]) -> str:
    others = [row["strategy"] for row in rows if not row["baseline"] and not row["bound"]]
    if strategy in others:
        return SERIES[others.index(strategy) % len(SERIES)]
    return INK if any(row["bound"] for row in rows if row["strategy"] == strategy) else "#8c8880"


def _ramp(where: float) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](0.9 * where)
    return red, green, blue, alpha


def _safe(text: str) -> str:
    """Keep matplotlib from reading $ as mathematics and from hiding names that start with _."""
    text = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(buffer, format="png")
    return write_atomic(path, buffer.getvalue())
