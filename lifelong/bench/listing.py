"""What `lifelong list strategies` prints: every strategy by family, and the hybrids."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong.bench.hybrids import HYBRIDS
from lifelong.bench.recipes import RECIPES

APART = {
    "prompts": ("structure", "parts a task", "boundaries", "arXiv:2211.13218"),
}
"""What no suite has the model for: its family, what it stores and needs, and its paper."""
LEGEND = (
    "P is the size of the model, G of a generator. Join names by + to combine: ewc+replay.",
    "Boundaries: end_task or consolidate must be called now and then.",
    "Task ids: each row must come with its task.",
    "Prompts are for transformers, in Python alone: lifelong.nets.Prompted, with Orthogonal.",
)


def strategies() -> list[str]:
    """Write a table of all strategies, a family after the other, then one of the hybrids.

    Example:
        >>> strategies()[0].split()
        ['name', 'stores', 'needs', 'paper']
    """
    families = list(dict.fromkeys(recipe.family for recipe in RECIPES.values()))
    head = ("name", "stores", "needs", "paper")
    told = {n: (r.family, r.stores, r.needs, r.paper) for n, r in RECIPES.items()} | APART
    rows = [(f"  {name}", *own) for name, (_, *own) in told.items()]
    head_line, *lines = aligned([head, *rows])
    family_of = list(zip([family for family, *_ in told.values()], lines, strict=True))
    written = [head_line]
    for family in families:
        written += ["", family, *(line for other, line in family_of if other == family)]
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
