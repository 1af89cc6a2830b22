"""Ours beside the published number, and whether that counts as reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TypedDict

from lifelong.bench.statistics import DASH, MINUS, format_interval
from lifelong.metrics.confidence import Interval, interval


class Comparison(TypedDict):
    """A cell of a published table and our runs of it, in the paper's unit.

    `reproduced` is None where nothing was published to compare with; `estimated` tells whether
    the standard error was not published, but is that of as many runs like ours.
    """

    method: str
    scenario: str
    published_mean: float | None
    published_sem: float | None
    estimated: bool
    ours: Interval
    difference: float | None
    reproduced: bool | None


def compare(
    method: str,
    scenario: str,
    ours: Sequence[float],
    published_mean: float | None,
    published_sem: float | None = None,
    published_runs: int | None = None,
) -> Comparison:
    """Compare our runs with a published mean: reproduced if ours >= mean - 2 standard errors.

    A better number counts. Where no standard error is published, but of how many runs the mean is,
    it is taken to be s / sqrt(runs), s the standard deviation of ours; where not even that is, ours
    must reach the mean.

    >>> cell = compare("SI", "task", [99.0, 99.2], 99.14, 0.11)
    >>> round(cell["difference"], 2), cell["reproduced"]
    (-0.04, True)
    """
    if published_sem is not None and not published_sem >= 0:
        raise ValueError(f"published_sem is {published_sem!r}; a standard error is 0 or more")
    found = interval(ours)
    estimated = False
    if published_sem is None and published_runs is not None and found.sem is not None:
        published_sem, estimated = found.sem * sqrt(found.count / published_runs), True
    difference = reproduced = None
    if published_mean is not None:
        difference = found.mean - published_mean
        reproduced = difference >= -2 * (published_sem or 0.0)
    return Comparison(
        method=method,
        scenario=scenario,
        published_mean=published_mean,
        published_sem=published_sem,
        estimated=estimated,
        ours=found,
        difference=difference,
        reproduced=reproduced,
    )


def markdown_table(rows: Sequence[Comparison]) -> str:
    """Return comparisons as a Markdown table.

    >>> print(markdown_table([compare("SI", "task", [99.0, 99.2], 99.14, 0.11)]))
    | method | scenario | published ± sem | ours ± 95 % | seeds | difference | reproduced |
    |---|---|--:|--:|--:|--:|:-:|
    | SI | task | 99.14 ± 0.11 | 99.10 ± 1.27 | 2 | −0.04 | yes |
    <BLANKLINE>
    """
    lines = [
        "| method | scenario | published ± sem | ours ± 95 % | seeds | difference | reproduced |",
        "|---|---|--:|--:|--:|--:|:-:|",
    ]
    for row in rows:
        cells = (
            _cell(row["method"]),
            _cell(row["scenario"]),
            _published(row),
            format_interval(row["ours"], digits=2),
            str(row["ours"].count),
            DASH if row["difference"] is None else f"{row['difference']:+.2f}".replace("-", MINUS),
            {True: "yes", False: "no", None: DASH}[row["reproduced"]],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _published(row: Comparison) -> str:
    mean, sem = row["published_mean"], row["published_sem"]
    if mean is None:
        return DASH
    if sem is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} (± {sem:.2f})" if row["estimated"] else f"{mean:.2f} ± {sem:.2f}"


def _cell(text: str) -> str:
    """Keep a name from ending its cell or its row."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
