"""Some of a task's rows, where all of them would cost too much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import torch

from lifelong.core.batch import Batch

AT_ONCE = 128
"""Rows that are put together before they are given away."""


def checked_rows(rows: int | None) -> int | None:
    """Give the number of rows back if it is one, or None.

    Example:
        >>> checked_rows(0)
        Traceback (most recent call last):
        ...
        ValueError: rows is 0; it must be 1 or more, or None for all rows of the task
    """
    if rows is not None and rows < 1:
        raise ValueError(f"rows is {rows}; it must be 1 or more, or None for all rows of the task")
    return rows


def sampled(data: Iterable[Batch], rows: int | None, generator: torch.Generator) -> Iterable[Batch]:
    """Draw rows of a task, uniformly and none twice, in the order in which they come.

    Args:
        data: batches, gone over twice.
        rows: how many; all if there are not more, or with None.
        generator: of the CPU; all chance comes from it.

    Example:
        >>> data = [Batch.of(torch.arange(6.0), torch.zeros(6)) for _ in range(2)]
        >>> (drawn,) = sampled(data, 4, torch.Generator().manual_seed(0))
        >>> len(drawn), drawn.new
        (4, 4)
    """
    if rows is None:
        return data
    whole = sum(len(batch) for batch in data)
    if rows >= whole:
        return data
    chosen = torch.randperm(whole, generator=generator)[:rows].sort().values
    return _chosen(data, chosen)


def _chosen(data: Iterable[Batch], chosen: torch.Tensor) -> Iterator[Batch]:
    start, parts = 0, []
    for batch in data:
        low, high = torch.searchsorted(chosen, torch.tensor([start, start + len(batch)])).tolist()
        if low < high:
            parts.append(batch.rows((chosen[low:high] - start).to(batch.y.device)))
        start += len(batch)
        if sum(map(len, parts)) >= AT_ONCE:
            yield _joined(parts)
            parts = []
    if parts:
        yield _joined(parts)


def _joined(parts: list[Batch]) -> Batch:
    whole = reduce(Batch.extended, parts)
    return whole.rows(slice(None))  # all of them count as new
