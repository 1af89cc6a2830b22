"""A back-test as a table and as a page: strategies on a stream that was, beside what was served."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lifelong.bench import charts
from lifelong.bench.axes import Axis
from lifelong.bench.charts import Line, percent
from lifelong.bench.job import versions
from lifelong.bench.report import TEMPLATES
from lifelong.bench.results import write_atomic
from lifelong.bench.statistics import DASH, MINUS, format_bytes, label
from lifelong.core.errors import MissingExtra

if TYPE_CHECKING:
    from rich.table import Table

Found = Mapping[str, Any]
"""What `backtest.json` has."""
SERVED = "As served"
COLUMNS = (
    ("Before learning", "%", "Rows answered rightly before they were learned from, in order."),
    (
        "Beside served",
        "points",
        "The same on those rows that were predictions, less what was served; with half the width "
        "of the 95 % interval over these rows.",
    ),
    ("On anchors", "%", "Mean at the end over the held-out rows of all tasks or periods."),
    (
        "Forgetting",
        "points",
        "How far the anchors of earlier periods have fallen from the best they ever were.",
    ),
    ("Learned", "rows", "Learned from; the other labelled rows are anchors, or in quarantine."),
    ("Kept", "", "Bytes that strategies keep: stored rows, importances, teachers."),
    ("Time", "s", "Reading, joining and learning, without the measuring."),
    ("Rows", "/s", "Rows learned from in a second of that."),
)


def summary_table(found: Found) -> Table:
    """Return a table for a terminal, best first, with what was served as its first row (rich)."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtra("rich", "bench", error) from error
    title = f"{found['service']}: events {found['from']} to {found['to']}"
    table = Table(title=Text(title), box=SIMPLE_HEAD)
    table.add_column("strategy", no_wrap=True)
    for name, unit, _ in COLUMNS:
        table.add_column(f"{name.lower()}, {unit}" if unit else name.lower(), justify="right")
    for name, cells in rows(found):
        table.add_row(Text(name, style="dim" if name == SERVED else ""), *cells)
    return table


def rows(found: Found) -> list[tuple[str, list[str]]]:
    """Return each row of the table: a name, and a text for each of the columns.

    Example:
        >>> served = {"accuracy": None, "average_accuracy": None, "forgetting": None}
        >>> rows({"served": served, "results": []})
        [('As served', ['–', '–', '–', '–', '–', '–', '–', '–'])]
    """
    served = found["served"]
    measured = [_hundred(served["average_accuracy"]), _hundred(served["forgetting"])]
    lines = [(SERVED, [_hundred(served["accuracy"]), DASH, *measured, *[DASH] * 4])]
    for one in best_first(found):
        beside = _hundred(one["difference"], sign=True)
        if one["half"] is not None:
            beside += f" ± {one['half'] * 100:.1f}"
        speed = one["rows_per_second"]
        cells = [_hundred(one["accuracy"]), beside, _hundred(one["average_accuracy"])]
        cells += [_hundred(one["forgetting"]), f"{one['learned']:,}"]
        cells += [format_bytes(one["memory_bytes"])]
        cells += [f"{one['seconds']:.1f}", DASH if speed is None else f"{speed:,.0f}"]
        lines.append((label(one["strategy"]), cells))
    return lines


def best_first(found: Found) -> list[Found]:
    """Return the results, the highest accuracy before learning first."""
    return sorted(found["results"], key=lambda one: -one["accuracy"])


def write_page(found: Found, path: Path, command: str) -> Path:
    """Write a page that needs nothing else, and return its path.

    Args:
        found: what the back-test returned.
        path: of the page.
        command: what one types to get it again.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("jinja2", "bench", error) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    color = {one["strategy"]: charts.series_color(i) for i, one in enumerate(found["results"])}
    colors = [charts.MUTED, *(color[one["strategy"]] for one in best_first(found))]
    html = environment.get_template("backtest.html.j2").render(
        found=found,
        columns=[dict(zip(("name", "unit", "meaning"), c, strict=True)) for c in COLUMNS],
        rows=[(*row, ink) for row, ink in zip(rows(found), colors, strict=True)],
        over_time=_over_time(found, color),
        on_anchors=_on_anchors(found, color),
        settings=[(label(r["strategy"]), r["about"]["settings"]) for r in found["results"]],
        command=command,
        versions=versions(),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )
    return write_atomic(path, html.encode())


class ReplayProgress:
    """Shows how far each replay is, with the time that is left, on a terminal.

    Args:
        names: of the choices.
    """

    def __init__(self, names: Sequence[str]) -> None:
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ImportError as error:
            raise MissingExtra("rich", "bench", error) from error
        console = Console(file=sys.stderr)
        self._bars = Progress(console=console, disable=not console.is_terminal)
        self._bar = {name: self._bars.add_task(label(name), total=1.0) for name in names}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def tell(self, name: str, share: float) -> None:
        """Show that a replay has come so far."""
        self._bars.update(self._bar[name], completed=share)


def named(text: str) -> list[str]:
    """Take a list of strategies apart.

    Example:
        >>> named("ewc, der++,as-configured")
        ['ewc', 'der++', 'as-configured']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def _hundred(value: float | None, sign: bool = False) -> str:
    if value is None:
        return DASH
    return f"{value * 100:{'+' if sign else ''}.1f}".replace("-", MINUS)


def _over_time(found: Found, color: Mapping[str, str]) -> dict[str, str]:
    lines = [_line(SERVED, found["served"]["over_time"], charts.MUTED, dashed=True)]
    lines += [
        _line(label(one["strategy"]), one["over_time"], color[one["strategy"]])
        for one in found["results"]
    ]
    lines = [line for line in lines if line.points]
    axis = Axis.linear([found["to"]], "events", "{:,.0f}".format, tight=True)
    return _both(lines, axis, "Accuracy before learning, over the stream")


def _line(name: str, parts: Sequence[Found], color: str, dashed: bool = False) -> Line:
    points = [(float(p["from"]), p["accuracy"]) for p in parts if p["accuracy"] is not None]
    return Line(name, points, color, name, dashed=dashed, marks=False)


def _on_anchors(found: Found, color: Mapping[str, str]) -> dict[str, str] | None:
    longest = max(len(one["anchors"]) for one in found["results"])
    if longest < 2:
        return None
    lines = []
    for one in found["results"]:
        means = [sum(row.values()) / len(row) for row in one["anchors"] if row]
        points = [(float(i), mean) for i, mean in enumerate(means, start=1)]
        text = f"{label(one['strategy'])} {percent(means[-1])}"
        lines.append(Line(label(one["strategy"]), points, color[one["strategy"]], text))
    axis = Axis.linear([longest], "periods", "{:g}".format, tight=True)
    return _both(lines, axis, "Mean accuracy on the anchors of the periods so far")


def _both(lines: Sequence[Line], axis: Axis, title: str) -> dict[str, str]:
    sizes = {"wide": (1040, 400), "narrow": (360, 330)}
    return {
        name: charts.line_chart(lines, axis, title=title, width=width, height=height)
        for name, (width, height) in sizes.items()
    }
