"""What `lifelong list strategies` prints: every strategy by family, and the hybrids."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong.bench.hybrids import HYBRIDS
from lifelong.bench.recipes import RECIPES

LEGEND = (
    "P is the size of the model, G of a generator. Join names by + to combine: ewc+replay.",
    "Boundaries: end_task or consolidate must be called now and then.",
    "Task ids: each row must come with its task.",
)


def strategies() -> list[str]:
    """Write a table of all strategies, a family after the other, then one of the hybrids.

    Example:
        >>> strategies()[0].split()
        ['name', 'stores', 'needs', 'paper']
    """
    families = list(dict.fromkeys(recipe.family for recipe in RECIPES.values()))
    head = ("name", "stores", "needs", "paper")
    rows = {n: (f"  {n}", r.stores, r.needs, r.paper) for n, r in RECIPES.items()}
    head_line, *lines = aligned([head, *rows.values()])
    line_of = dict(zip(rows, lines, strict=True))
    written = [head_line]
    for family in families:
        own = [line_of[name] for name, recipe in RECIPES.items() if recipe.family == family]
        written += ["", family, *own]
    hybrids = [(f"  {name}", h.parts, h.when) for name, h in HYBRIDS.items()]
    return [*written, "", "hybrids", *aligned(hybrids), "", *LEGEND]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write rows as lines whose columns stand below each other.

    Example:
        >>> aligned([("a", "b"), ("long", "c")])
        ['a     b', 'long  c']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return [line.rstrip() for line in lines]
