"""Charts as SVG: data in, a string out. Colours are CSS variables, so a page's theme sets them.

Each chart has a view box, so that it scales; a label and a description for those who hear it; and
a `<title>` on each mark, which browsers show on hover. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lifelong.bench.axes import Axis, spread

INK, MUTED, RULE, PAPER = (
    "var(--ink, #1d1c1a)",
    "var(--muted, #625f58)",
    "var(--rule, #e2ded5)",
    "var(--paper, #fdfcfa)",
)
SERIES = ("#0069a8", "#b84a00", "#00775a", "#a83f82", "#7c6200", "#4a46b5", "#17749f", "#7a3b12")
RAMP = ("#b4540a", "#866d00", "#2f7f3c", "#00759b", "#4b4fb0", "#8a2f86")
LEVELS = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through (x, y) points, y from 0 to 1; `band` is a (low, high) for each point."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    text: str = ""
    band: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    marks: bool = True


@dataclass(frozen=True, slots=True)
class Dot:
    """A named point, y from 0 to 1, with the ends of its interval where there is one."""

    name: str
    x: float
    y: float
    color: str
    low: float | None = None
    high: float | None = None
    hollow: bool = False


def series_color(index: int) -> str:
    """Return the color of a chart's n-th series.

    >>> series_color(0)
    'var(--s0, #0069a8)'
    """
    index %= len(SERIES)
    return f"var(--s{index}, {SERIES[index]})"


def ramp_color(index: int, count: int) -> str:
    """Return the color of the n-th of `count` ordered things, such as tasks.

    >>> ramp_color(0, 5)
    'var(--r0, #b4540a)'
    """
    where = index / max(count - 1, 1) * (len(RAMP) - 1)
    left = min(int(where), len(RAMP) - 2)
    first, second = (f"var(--r{stop}, {RAMP[stop]})" for stop in (left, left + 1))
    share = round((where - left) * 100)
    if share in (0, 100):
        return second if share else first
    return f"color-mix(in oklab, {first} {100 - share}%, {second})"


def percent(value: float, digits: int = 0) -> str:
    """Return an accuracy in percent, with a space that does not break.

    >>> percent(0.914) == "91\\N{NO-BREAK SPACE}%"
    True
    """
    return f"{value * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def line_chart(
    lines: Sequence[Line], axis: Axis, *, title: str, width: int = 720, height: int = 340
) -> str:
    """Return lines over x, with accuracy from 0 to 100 % upwards, each labelled at its end.

    >>> line = Line("EWC", [(1, 0.9), (2, 0.5)], series_color(0))
    >>> line_chart([line], Axis.steps(["A", "B"], "after learning"), title="Accuracy")[:27]
    '<svg class="chart" xmlns="h'
    """
    labels = [line.text or line.name for line in lines]
    plot = _Plot(width, height, axis, right=max(map(_text_width, labels), default=0) + 18)
    body = [plot.frame()]
    body += [_band(line, plot) for line in lines if line.band]
    body += [
        _line(line, plot, sum(_lie_together(line, later) for later in lines[number:]))
        for number, line in enumerate(lines, start=1)
    ]
    ends = [plot.y(line.points[-1][1]) if line.points else plot.y(0) for line in lines]
    places = spread(ends, gap=15, low=plot.top, high=plot.bottom)
    for line, text, place in zip(lines, labels, places, strict=True):
        x = plot.x(line.points[-1][0]) if line.points else plot.left
        x = max(x, plot.right) + 9
        body.append(_text(x, place + 4, text, fill=line.color, weight=600))
    ended = ", ".join(f"{line.name} {percent(line.points[-1][1])}" for line in lines if line.points)
    return _svg(width, height, title, f"At the end: {ended}.", body)


def scatter(
    dots: Sequence[Dot], axis: Axis, *, title: str, width: int = 500, height: int = 330
) -> str:
    """Return named points over x, accuracy from 0 to 100 % upwards, with their intervals.

    >>> dot = Dot("EWC", 20.0, 0.5, series_color(0))
    >>> "<title>EWC: 50" in scatter([dot], Axis.linear([20.0], "seconds"), title="Time")
    True
    """
    plot = _Plot(width, height, axis, right=24)
    body = [plot.frame()]
    taken = [_around(plot.x(dot.x), plot.y(dot.y)) for dot in dots]
    for dot in dots:
        x, y = plot.x(dot.x), plot.y(dot.y)
        mark = ""
        if dot.low is not None and dot.high is not None:
            low, high = (plot.y(min(max(end, 0.0), 1.0)) for end in (dot.low, dot.high))
            mark = (
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{dot.color}" '
                'stroke-width="6" stroke-opacity=".28" stroke-linecap="round"/>'
            )
        fill = PAPER if dot.hollow else dot.color
        tip = f"{dot.name}: {percent(dot.y, 1)} at {axis.text(dot.x)}"
        body.append(
            f'<g>{mark}<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{fill}" '
            f'stroke="{dot.color}" stroke-width="2"/><title>{escape(tip)}</title></g>'
        )
        body.append(_dot_label(dot, x, y, plot, taken))
    told = "; ".join(f"{dot.name} {percent(dot.y)} at {axis.text(dot.x)}" for dot in dots)
    return _svg(width, height, title, told, body)


def heat_map(matrix: Sequence[Sequence[float]], *, title: str, tasks: Sequence[str]) -> str:
    """Return the accuracy matrix as cells with their value in percent.

    Tasks not yet learned have no color. Classes h0 to h10 name the level of a cell. Tasks whose
    names are too long for a cell go by their numbers; the names show on hover.

    >>> chart = heat_map([[0.9, 0.1], [0.2, 0.8]], title="R", tasks=["A", "B"])
    >>> chart.count('class="h9"'), chart.count('class="later"')
    (1, 1)
    """
    across, down = (52, 36) if len(tasks) <= 8 else (40, 32)
    fits = all(_text_width(name) <= across - 8 for name in tasks)
    columns = tasks if fits else [str(j + 1) for j in range(len(tasks))]
    rows = columns if len(matrix) == len(tasks) else ["all"]
    left, top = max(map(_text_width, rows)) + 16, 26
    width, height = int(left + across * len(columns)) + 2, top + down * len(rows) + 2
    body = [
        _text(left + across * (j + 0.5), 16, name, anchor="middle", fill=MUTED)
        for j, name in enumerate(columns)
    ]
    for i, row in enumerate(matrix):
        y = top + down * i
        body.append(_text(left - 10, y + down / 2 + 4, rows[i], anchor="end", fill=MUTED))
        for j, value in enumerate(row):
            later = len(matrix) > 1 and j > i
            kind = "later" if later else f"h{round(value * LEVELS)}"
            x = left + across * j
            when = f"after {tasks[i]}" if len(matrix) > 1 else "after all"
            tip = escape(f"{tasks[j]} {when}: {percent(value, 1)}")
            body.append(
                f'<g class="{kind}"><rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{across - 2}" '
                f'height="{down - 2}" rx="3"/>'
                f'<text x="{x + across / 2:.1f}" y="{y + down / 2 + 4.5:.1f}" '
                f'text-anchor="middle">{value * 100:.0f}</text><title>{tip}</title></g>'
            )
    last = ", ".join(
        f"{name} {percent(value)}" for name, value in zip(tasks, matrix[-1], strict=True)
    )
    return _svg(width, height, title, f"At the end: {last}.", body)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


class _Plot:
    """Where the data lie in a chart, and the frame around them."""

    def __init__(self, width: int, height: int, axis: Axis, *, right: float) -> None:
        self.axis = axis
        self.left, self.right = 44.0, width - right
        self.top, self.bottom = 14.0, height - 46.0

    def x(self, value: float) -> float:
        return self.left + self.axis.place(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - value * (self.bottom - self.top)

    def has_room(self, box: _Box, taken: Sequence[_Box]) -> bool:
        inside = self.left <= box[0] and box[2] <= self.right + 20
        inside = inside and box[1] >= 0 and box[3] <= self.bottom
        return inside and not any(_overlap(box, other) for other in taken)

    def frame(self) -> str:
        parts = []
        for step in range(0, 101, 25):
            y = self.y(step / 100)
            edge = MUTED if step == 0 else RULE
            parts.append(f'<path d="M{self.left:g} {y:.1f}H{self.right:.1f}" stroke="{edge}"/>')
            unit = "\N{NO-BREAK SPACE}%" if step == 100 else ""
            parts.append(_text(self.left - 8, y + 4, f"{step}{unit}", anchor="end", fill=MUTED))
        for place, name in self.axis.fitting(self.right - self.left, _text_width):
            x = self.left + place * (self.right - self.left)
            parts.append(_text(x, self.bottom + 18, name, anchor="middle", fill=MUTED))
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, self.bottom + 38, self.axis.label, anchor="middle", fill=MUTED))
        return "".join(parts)


def _lie_together(first: Line, second: Line) -> bool:
    """Say whether a line lies on another all along, where one would hide the other."""
    there = dict(second.points)
    return bool(first.points) and all(abs(there.get(x, 9.0) - y) < 0.01 for x, y in first.points)


def _line(line: Line, plot: _Plot, above: int = 0) -> str:
    """Draw a line; the more others lie above it, the wider, so that it shows on both sides."""
    wide = 2 + 4 * min(above, 2)
    path = "L".join(f"{plot.x(x):.1f} {plot.y(y):.1f}" for x, y in line.points)
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    marks = ""
    if line.marks and not line.dashed:
        marks = "".join(
            f'<circle cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="{1.2 + wide}" '
            f'fill="{line.color}">'
            f"<title>{escape(f'{line.name}, {plot.axis.text(x)}: {percent(y, 1)}')}</title>"
            "</circle>"
            for x, y in line.points
        )
    return (
        f'<g class="line"><path d="M{path}" fill="none" stroke="{line.color}" '
        f'stroke-width="{wide}" stroke-linejoin="round" stroke-linecap="round"{dash}/>{marks}'
        f"<title>{escape(line.name)}</title></g>"
        if line.points
        else ""
    )


def _band(line: Line, plot: _Plot) -> str:
    corners = [(x, high) for (x, _), (_, high) in zip(line.points, line.band, strict=True)]
    corners += [(x, low) for (x, _), (low, _) in zip(line.points, line.band, strict=True)][::-1]
    path = "L".join(f"{plot.x(x):.1f} {plot.y(min(max(y, 0.0), 1.0)):.1f}" for x, y in corners)
    return f'<path d="M{path}Z" fill="{line.color}" fill-opacity=".14"/>'


def _around(x: float, y: float) -> _Box:
    return (x - 8, y - 8, x + 8, y + 8)


def _dot_label(dot: Dot, x: float, y: float, plot: _Plot, taken: list[_Box]) -> str:
    """Label a dot on the first side that is free: right, left, above, below, then further off."""
    width = _text_width(dot.name)
    places = [(x + 11, y + 4, 0.0), (x - 11, y + 4, 1.0)]
    for far in (12, 24, 36):
        places += [(x, y - far, 0.5), (x, y + far + 8, 0.5), (x + 11, y + far, 0.0)]
    boxes = [
        (left := at - width * share, base - 11, left + width, base + 3)
        for at, base, share in places
    ]
    free = next((k for k, box in enumerate(boxes) if plot.has_room(box, taken)), 0)
    taken.append(boxes[free])
    at, base, share = places[free]
    anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
    return _text(at, base, dot.name, anchor=anchor, fill=dot.color, weight=600)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text_width(text: str) -> float:
    """Guess the width of a label of 12 pixels, on the wide side."""
    return 6.9 * len(text)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, weight: int = 400
) -> str:
    bold = "" if weight == 400 else f' font-weight="{weight}"'
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{side}{bold}>{escape(text)}</text>'


def _svg(width: int, height: int, title: str, told: str, body: Sequence[str]) -> str:
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}. '
        f'{escape(told)}" font-size="12" font-family="ui-sans-serif, system-ui, sans-serif">'
        f"{''.join(body)}</svg>"
    )
