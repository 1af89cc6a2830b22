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


def table_names() -> list[str]:
    """Name the tables there are.

    Example:
        >>> table_names()[:3]
        ['split-mnist-buffers', 'split-mnist-hsu', 'split-mnist-scenarios']
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
        )
        for cell in data["cell"]
    )
    return Table(name, data["title"], data["source"], data["notes"].strip(), cells)


def configs(table: Table, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Settle the runs of a table, cell by cell and seed by seed; accuracy only at tasks' ends."""
    return [
        {**resolve(cell.suite, cell.strategy, {"curve": 0, **cell.given}), "seed": seed}
        for cell in table.cells
        for seed in seeds
    ]


def folders(table: Table, seeds: Sequence[int], out: Path) -> list[Path]:
    """Give each of the runs its folder."""
    return [out / "jobs" / f"{cell.slug}-{seed}" for cell in table.cells for seed in seeds]


def comparisons(table: Table, results: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """Put the results, in the order of `configs`, beside the published numbers, in percent."""
    count = len(results) // len(table.cells)
    return [
        compare(
            cell.method,
            cell.scenario,
            [100 * run["average_accuracy"] for run in results[i * count : (i + 1) * count]],
            cell.published,
            cell.sem,
        )
        for i, cell in enumerate(table.cells)
    ]


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
    table: Table, results: Sequence[Mapping[str, Any]], out: Path, command: str
) -> list[Comparison]:
    """Write OUT/table.md and OUT/table.json; return the comparisons."""
    rows = comparisons(table, results)
    reached = sum(row["reproduced"] is True for row in rows)
    count = len(results) // len(table.cells)
    told = f"{reached} of {len(rows)} cells reproduced, "
    if all(row["reproduced"] is None for row in rows):  # nothing is published to compare with
        told = ""
    text = (
        f"## {table.title}\n\n{table.source}\n\n{table.notes}\n\n"
        f"{told}{count} seeds: `{command}`\n\n"
        f"{markdown_table(rows)}"
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
                "ours": row["ours"].mean,
                "half_interval": row["ours"].half,
                "seeds": count,
                "reproduced": row["reproduced"],
                "accuracies": [
                    run["average_accuracy"] for run in results[i * count : (i + 1) * count]
                ],
                "seconds": [run["seconds"] for run in results[i * count : (i + 1) * count]],
            }
            for i, row in enumerate(rows)
        ],
    }
    write_atomic(out / "table.json", (json.dumps(data, indent=1) + "\n").encode())
    return rows
