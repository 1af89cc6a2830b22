"""Published tables, run again: each is a file of data in `lifelong/bench/tables`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong.bench.job import versions
from lifelong.bench.published import Comparison, compare, markdown_table
from lifelong.bench.results import write_atomic
from lifelong.bench.suites import resolve
from lifelong.core.errors import UnknownName

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True, slots=True)
class Cell:
    """One published number, and the run that should come to it."""

    method: str
    scenario: str
    suite: str
    strategy: str
    given: Mapping[str, Any]
    published: float | None
    sem: float | None
    seeds: int = 5
    """How many runs it takes, where the caller has no seeds in mind."""
    runs: int | None = None
    """Of how many runs the published number is the mean, if that is known."""

    @property
    def slug(self) -> str:
        """A name for its folder."""
        return re.sub(r"[^a-z0-9+]+", "-", f"{self.method}-{self.scenario}".lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Table:
    """A published table: where it is from, how ours differs, and its cells."""

    name: str
    title: str
    source: str
    notes: str
    cells: tuple[Cell, ...]
    gpu: bool = False
    """Whether it would take days without a GPU."""


def table_names() -> list[str]:
    """Name the tables there are.

    Example:
        >>> table_names()[:3]
        ['split-cifar10-buffers', 'split-cifar10-small', 'split-mnist-buffers']
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_table(name: str) -> Table:
    """Read a table from its file.

    Raises:
        UnknownName: there is no such table.

    Example:
        >>> read_table("split-mnist-buffers").cells[0].published
        80.43
    """
    if name not in table_names():
        raise UnknownName("table", name, table_names())
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    cells = tuple(
        Cell(
            cell["method"],
            cell["scenario"],
            cell["suite"],
            cell["strategy"],
            cell.get("set", {}),
            cell.get("published"),
            cell.get("sem"),
            cell.get("seeds", 5),
            data.get("runs"),
        )
        for cell in data["cell"]
    )
    told = data["title"], data["source"], data["notes"].strip()
    return Table(name, *told, cells, data.get("gpu", False))


def runs(table: Table, seeds: Sequence[int] | None = None) -> list[tuple[Cell, int]]:
    """List the runs of a table, each a cell and a seed; None for as many as each cell takes.

    Example:
        >>> len(runs(read_table("split-mnist-hsu"), [0]))
        12
    """
    return [
        (cell, seed)
        for cell in table.cells
        for seed in (range(cell.seeds) if seeds is None else seeds)
    ]


def config(cell: Cell, seed: int) -> dict[str, Any]:
    """Resolve the settings of a run."""
    return {**resolve(cell.suite, cell.strategy, {**cell.given, "curve": 0}), "seed": seed}


def folder(cell: Cell, seed: int, out: Path) -> Path:
    """Give a run its folder."""
    return out / "jobs" / f"{cell.slug}-{seed}"


def put_into(page: Path, table: Table, text: str) -> None:
    """Put a table's section into a Markdown page, in the place of an earlier one if it has one."""
    old = page.read_text("utf-8") if page.exists() else "# Results\n"
    heads = re.split(r"(?m)^(?=## )", old)
    parts = [part for part in heads if not part.startswith(f"## {table.title}\n")]
    place = next((i for i, part in enumerate(heads) if part not in parts), len(parts))
    parts.insert(place, text)
    whole = "\n\n".join(part.strip() for part in parts) + "\n"
    write_atomic(page, whole.encode())


def write(
    table: Table,
    planned: Sequence[tuple[Cell, int]],
    results: Sequence[Mapping[str, Any]],
    out: Path,
    command: str,
) -> list[Comparison]:
    """Write OUT/table.md and OUT/table.json; return the comparisons, in percent.

    Args:
        table: whose runs are over.
        planned: those runs, as `runs` lists them.
        results: of each of them.
        out: the folder of the files.
        command: that repeats it.
    """
    found: dict[str, list[Mapping[str, Any]]] = {cell.slug: [] for cell in table.cells}
    for (cell, _), run in zip(planned, results, strict=True):
        found[cell.slug].append(run)
    rows = [
        compare(
            cell.method,
            cell.scenario,
            [100 * run["average_accuracy"] for run in found[cell.slug]],
            cell.published,
            cell.sem,
            cell.runs,
        )
        for cell in table.cells
    ]
    text = (
        f"## {table.title}\n\n{table.source}\n\n{table.notes}\n\n"
        f"{_summary(rows)}: `{command}`\n\n{markdown_table(rows)}"
    )
    write_atomic(out / "table.md", text.encode())
    data = {
        "table": table.name,
        "command": command,
        "versions": versions(),
        "cells": [
            {
                "method": row["method"],
                "scenario": row["scenario"],
                "published": row["published_mean"],
                "sem": row["published_sem"],
                "sem_estimated": row["estimated"],
                "ours": row["ours"].mean,
                "half_interval": row["ours"].half,
                "seeds": row["ours"].count,
                "reproduced": row["reproduced"],
                "accuracies": [run["average_accuracy"] for run in found[cell.slug]],
                "seconds": [run["seconds"] for run in found[cell.slug]],
            }
            for cell, row in zip(table.cells, rows, strict=True)
        ],
    }
    write_atomic(out / "table.json", (json.dumps(data, indent=1) + "\n").encode())
    return rows


def _summary(rows: Sequence[Comparison]) -> str:
    """Say how many cells were reproduced, of those with a number to compare with."""
    counts = sorted({row["ours"].count for row in rows})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    told = [row["reproduced"] for row in rows if row["reproduced"] is not None]
    return f"{sum(told)} of {len(told)} cells reproduced, {seeds}" if told else seeds
