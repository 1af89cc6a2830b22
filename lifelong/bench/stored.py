"""What methods store of the past, in the words of their recipes: how telling, and how large."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lifelong.bench.constraints import Constraints, Privacy
from lifelong.bench.recipes import RECIPES

Size = Callable[[Constraints], int | None]
"""The fewest bytes under constraints; None where they do not say enough."""

LEVELS: tuple[Privacy, ...] = ("rows", "statistics", "nothing")
"""What may be kept of past rows, the most first."""

NOTED = 3 * 8
"""Bytes beside a row's inputs: its label, its task and its id."""


def _times(*factors: int | None) -> int | None:
    product = 1
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _row_of_each_class(c: Constraints) -> int | None:
    return None if c.row_bytes is None else _times(c.classes, c.row_bytes + NOTED)


STORED: Mapping[str, tuple[Privacy, Size]] = {
    "nothing": ("nothing", lambda _: 0),
    "P": ("nothing", lambda c: _times(4, c.parameters)),
    "columns": ("nothing", lambda c: _times(4, c.parameters, c.tasks)),
    "masks": ("nothing", lambda c: _times(c.parameters, c.tasks)),
    "gates": ("nothing", lambda _: None),
    "sets": ("nothing", lambda _: None),
    "a set a task": ("nothing", lambda _: None),
    "G": ("statistics", lambda c: _times(4 * 400, c.row_bytes)),  # its first layer
    "sums": ("statistics", lambda _: None),
    "bases": ("statistics", lambda _: None),
    "moments": ("statistics", lambda _: None),
    "rows": ("rows", _row_of_each_class),
    "held-out rows": ("rows", _row_of_each_class),
    "outputs": ("rows", lambda c: _times(4, c.classes, c.classes)),
    "directions P": ("rows", lambda c: _times(4, c.parameters)),  # one, which gives its row back
}
"""Each thing that a recipe names: what must be allowed for it, and its size."""


def stored(method: str) -> list[tuple[str, float]]:
    """Take what a method stores apart: each thing, and how many times.

    Example:
        >>> stored("dgr")
        [('P', 1.0), ('G', 5.0)]
    """
    found = re.findall(r"(?:^|, )(?:([\d.]+) )?([^,]+)", RECIPES[method].stores)
    return [(thing, float(count or 1)) for count, thing in found]


def level(method: str) -> Privacy:
    """Say what must be allowed to be kept of past rows.

    Example:
        >>> level("replay"), level("gpm"), level("ewc")
        ('rows', 'statistics', 'nothing')
    """
    return LEVELS[min(LEVELS.index(STORED[thing][0]) for thing, _ in stored(method))]


def least(method: str, c: Constraints) -> int | None:
    """Reckon the fewest bytes that a method keeps; None where that is not known.

    Example:
        >>> least("ewc", Constraints(parameters=1000)), least("ewc", Constraints())
        (8000, None)
    """
    total = 0.0
    for thing, count in stored(method):
        size = STORED[thing][1](c)
        if size is None:
            return None
        total += count * size
    return round(total)


def settings_for(method: str, c: Constraints) -> tuple[dict[str, int | str], str | None]:
    """Fit what a method keeps into the storage; say what could not be reckoned, if anything.

    Example:
        >>> settings_for("der++", Constraints(storage=100_000, row_bytes=64, classes=10))
        ({'capacity': '100KB'}, None)
        >>> settings_for("gem", Constraints(storage=8_800, row_bytes=64, classes=10))
        ({'capacity': 100}, None)
    """
    known = RECIPES[method].settings()
    if not isinstance(c.storage, int):
        return {}, None
    doubt = None if least(method, c) is not None else _lacking(method, c)
    if "directions" in known and c.parameters:
        return {"directions": c.storage // (4 * c.parameters)}, doubt
    name = next((name for name in ("capacity", "memory") if name in known), None)
    if name is None:
        return {}, doubt
    copies = sum(4 * (c.parameters or 0) * n for thing, n in stored(method) if thing == "P")
    room = c.storage - round(copies)
    if _takes_bytes(method, name):
        return {name: _written(room)}, doubt
    if c.row_bytes is None:
        return {}, f"its {name} counts rows: say row_bytes to have it fitted into the storage"
    return {name: max(1, room // (c.row_bytes + NOTED))}, doubt


def _lacking(method: str, c: Constraints) -> str:
    told = [name for name in ("row_bytes", "classes", "parameters") if getattr(c, name) is None]
    way_out = f"; say {' and '.join(told)}" if told else ""
    return f"whether it fits is not known: it stores {RECIPES[method].stores}{way_out}"


def _takes_bytes(method: str, name: str) -> bool:
    try:
        RECIPES[method].check(name, "1B")
    except ValueError:
        return False
    return True


def _written(count: int) -> str:
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"
