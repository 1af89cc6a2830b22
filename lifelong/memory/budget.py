"""Room for rows in bytes: "10MB" as a number, and how many rows that is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import SupportsIndex

import torch
from torch import Tensor

from lifelong.core.errors import BudgetTooSmall

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_NO_ROOM = (
    *("allocate", "out of memory", "no space left"),
    *("overflow", "dimension exceeded", "too large to convert"),
)
"""What numpy, torch and the system say where memory or a disk does not suffice."""


def bytes_of(text: str) -> int:
    """Read a number of bytes with its unit: B, KB, MB, GB (powers of 1000), KiB, MiB, GiB.

    Raises:
        ValueError: it is none, or not positive.

    Example:
        >>> bytes_of("10MB"), bytes_of("1.5 KiB")
        (10000000, 1536)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text, re.IGNORECASE)
    if found is None or found[2].upper() not in UNITS or not (size := _size(*found.groups())):
        raise ValueError(
            f"capacity {text!r}; give a number of rows (500), or bytes with a unit, "
            "such as '200KB', '10MB' or '1.5GiB'"
        )
    return size


def whole(capacity: object) -> int:
    """Give a number of rows back if it is one.

    Raises:
        ValueError: it is no integer.

    Example:
        >>> whole(2.5)
        Traceback (most recent call last):
        ...
        ValueError: capacity is 2.5; give a whole number of rows (500), or bytes, such as '10MB'
    """
    if isinstance(capacity, bool) or not isinstance(capacity, SupportsIndex):
        raise ValueError(
            f"capacity is {capacity!r}; give a whole number of rows (500), or bytes, such as '10MB'"
        )
    return capacity.__index__()


@contextmanager
def room_for(capacity: int, size: int = 8) -> Iterator[None]:
    """Say what is too large if there is no room for so many rows.

    Args:
        capacity: how many rows.
        size: bytes of each; 8 for what a memory notes of a row.

    Raises:
        BudgetTooSmall: the machine has not so much room.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError, ValueError, OSError) as error:
        if not any(word in str(error).lower() for word in _NO_ROOM):
            raise
        raise BudgetTooSmall(
            f"there is no room here for {capacity} rows of {size} bytes "
            f"({capacity * size / 1e9:.3g} GB); give a lower capacity, or one in bytes ('10MB')"
        ) from error


def look_for_room(capacity: int, size: int) -> None:
    """Ask the system for so many rows at once, and give them back untouched.

    Raises:
        BudgetTooSmall: it has not so much room.

    Example:
        >>> look_for_room(10, 80)
    """
    with room_for(capacity, size):
        torch.empty(capacity * (size + 8), dtype=torch.uint8)  # 8 for what is noted of each


def row_bytes(columns: Mapping[str, Tensor]) -> int:
    """Count the bytes that a row takes in all of its columns.

    Example:
        >>> import torch
        >>> row_bytes({"x": torch.zeros(9, 4, dtype=torch.uint8), "y": torch.zeros(9).long()})
        12
    """
    return sum(column.element_size() * prod(column.shape[1:]) for column in columns.values())


def rows_within(budget: int, columns: Mapping[str, Tensor], groups: int = 1) -> int:
    """Count the rows that fit into a budget.

    Args:
        budget: in bytes.
        columns: (rows, ...) each, as they are stored.
        groups: how many classes or tasks there are, each of which must find room for a row.

    Raises:
        BudgetTooSmall: not one row a group fits.

    Example:
        >>> import torch
        >>> rows_within(1000, {"x": torch.zeros(1, 30, dtype=torch.uint8)})
        33
    """
    size = row_bytes(columns)
    rows = budget // size
    if rows < max(groups, 1):
        told = f"{groups} classes or tasks" if groups > 1 else "a single one"
        raise BudgetTooSmall(
            f"a memory of {budget} bytes has room for {rows} rows of {size} bytes, too few for "
            f"{told}; give at least {max(groups, 1) * size} bytes, or store rows smaller "
            "(store='uint8', 'int8', 'fp16' or 'jpeg')"
        )
    return rows


def _size(number: str, unit: str) -> int:
    return int(float(number) * UNITS[unit.upper()])
