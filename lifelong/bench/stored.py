"""What methods store of the past, in the words of their recipes: how telling, and how large."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from lifelong.bench.constraints import Constraints, Privacy
from lifelong.bench.recipes import RECIPES
from lifelong.bench.statistics import format_bytes

Size = Callable[[Constraints], int | None]
"""The fewest bytes under constraints, or a bound below them; None where nothing is known."""

LEVELS: tuple[Privacy, ...] = ("rows", "statistics", "nothing")
"""What may be kept of past rows, the most first."""

NOTED = 3 * 8
"""Bytes beside a row's inputs: its label, its task and its id."""
NUMBER, HALF = 8, 2
"""Bytes of a number of an input, at most, or of a sum; and of one in 16 bits."""


def _times(*factors: int | None) -> int | None:
    product = 1
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _row_of_each_class(c: Constraints) -> int:
    """Count one row, and one byte of inputs, where no more is known."""
    return (c.classes or 1) * ((c.row_bytes or 1) + NOTED)


def _generator(c: Constraints) -> int | None:
    """Count its first layer, of 400."""
    return None if c.row_bytes is None else 4 * 400 * (c.row_bytes // NUMBER)


STORED: Mapping[str, tuple[Privacy, Size]] = {
    "nothing": ("nothing", lambda _: 0),
    "P": ("nothing", lambda c: _times(4, c.parameters)),
    "columns": ("nothing", lambda c: _times(4, c.parameters, c.tasks)),
    "masks": ("nothing", lambda c: _times(c.parameters, c.tasks)),
    "gates": ("nothing", lambda _: None),
    "sets": ("nothing", lambda _: None),
    "a set a task": ("nothing", lambda _: None),
    "G": ("statistics", _generator),
    "means": ("nothing", lambda _: None),  # they are the weights of the head
    "sums": ("statistics", lambda _: None),  # but where a head has a width of its own
    "bases": ("statistics", lambda _: None),
    "moments": ("statistics", lambda _: None),
    "rows": ("rows", _row_of_each_class),
    "held-out rows": ("rows", lambda c: (c.row_bytes or 1) + NOTED),
    "outputs": ("rows", lambda c: _times(HALF, c.classes, c.classes)),
    "directions P": ("rows", lambda c: _times(4, c.parameters)),  # one, which gives its row back
}
"""Each thing that a recipe names: what must be allowed for it, and its size."""


_FITTED = ("rows", "outputs")
"""What a capacity bounds."""


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


def least(method: str, c: Constraints) -> int:
    """Reckon a bound below the bytes that a method keeps: the sum of what is known of them.

    Example:
        >>> least("ewc", Constraints(parameters=1000)), least("ewc", Constraints())
        (8000, 0)
    """
    return round(sum(count * (size or 0) for size, count in _sizes(method, c)))


def is_known(method: str, c: Constraints) -> bool:
    """Say whether constraints tell enough for `least` to be the fewest bytes.

    Of a head that is computed they never do: it depends on the number of features.

    Example:
        >>> is_known("ewc", Constraints(parameters=1000)), is_known("ewc", Constraints())
        (True, False)
    """
    rows = not keeps_rows(method) or None not in (c.row_bytes, c.classes)
    return (
        rows
        and RECIPES[method].head is None
        and all(size is not None for size, _ in _sizes(method, c))
    )


def keeps_rows(method: str) -> bool:
    """Say whether a method keeps past rows as they are.

    Example:
        >>> keeps_rows("replay"), keeps_rows("ogd")
        (True, False)
    """
    return any(thing in ("rows", "held-out rows") for thing, _ in stored(method))


def _sizes(method: str, c: Constraints) -> list[tuple[int | None, float]]:
    if c.row_bytes and _packs(method):
        c = replace(c, row_bytes=max(1, c.row_bytes * HALF // NUMBER))
    return [
        (_sums(method, c) if thing == "sums" else STORED[thing][1](c), count)
        for thing, count in stored(method)
    ]


def _sums(method: str, c: Constraints) -> int | None:
    """Count the moments of a computed head that has a width of its own, and a sum a class."""
    width = _width(method)
    return None if width is None else NUMBER * width * (width + (c.classes or 1))


def _width(method: str) -> int | None:
    head = RECIPES[method].head
    return int(head.keywords["width"]) if isinstance(head, partial) else None


def may_not_fit(method: str, c: Constraints) -> bool:
    """Say whether there is a limit on storage and nothing tells that a method keeps to it.

    Example:
        >>> [may_not_fit(name, Constraints(storage=10**8)) for name in ("default", "gpm", "ranpac")]
        [False, True, False]
    """
    if not isinstance(c.storage, int) or is_known(method, c):
        return False
    others = zip(stored(method), _sizes(method, c), strict=True)
    unknown = any(size is None for (thing, _), (size, _) in others if thing not in _FITTED)
    return unknown or not (_width(method) or settings_for(method, c)[0])


def settings_for(method: str, c: Constraints) -> tuple[dict[str, int | str], str | None]:
    """Fit what a method keeps into the storage; say what could not be reckoned, if anything.

    Example:
        >>> settings_for("der++", Constraints(storage=100_000, row_bytes=64, classes=10))
        ({'capacity': '100KB'}, None)
        >>> settings_for("ogd", Constraints(storage=8_800, parameters=100))
        ({'directions': 22}, None)
    """
    known = RECIPES[method].settings()
    if not isinstance(c.storage, int):
        return {}, None
    doubt = _packing(method, c) if is_known(method, c) else _lacking(method, c)
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
    width = _width(method)
    if width is not None:
        size, each = format_bytes(least(method, c)), format_bytes(4 * width)
        return f"it keeps {size}, and {each} more for each feature of the backbone"
    told = [name for name in ("row_bytes", "classes", "parameters") if getattr(c, name) is None]
    way_out = f"; say {' and '.join(told)}" if told else ""
    return f"whether it fits is not known: it stores {RECIPES[method].stores}{way_out}"


def _packs(method: str) -> bool:
    """Say whether it stores floating-point inputs in 16 bits."""
    return RECIPES[method].settings().get("store") == "auto"


def _packing(method: str, c: Constraints) -> str | None:
    whole = _row_of_each_class(c)
    if not _packs(method) or not isinstance(c.storage, int) or whole <= c.storage:
        return None
    return f"it does not fit if inputs are bytes: these stay bytes, {format_bytes(whole)} at least"


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
