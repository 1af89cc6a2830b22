"""Rows in groups, such as classes or tasks, and how the groups share the room."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.memory.slots import NONE, Slots


def split(group: Tensor | None, rows: int) -> tuple[Slots, list[tuple[int, int, int]]]:
    """Sort rows by group: an order, and for each group its id and where it starts and stops in it.

    Raises:
        InvalidBatch: not one group a row, or groups that are no integers.

    Example:
        >>> order, parts = split(torch.tensor([7, 4, 7]), 3)
        >>> order.tolist(), parts
        ([1, 0, 2], [(4, 0, 1), (7, 1, 3)])
    """
    if group is None:
        return np.arange(rows), [(0, 0, rows)]
    if group.shape != (rows,) or group.is_floating_point() or group.is_complex():
        raise InvalidBatch(
            f"groups are {group.dtype} of shape {tuple(group.shape)}; "
            f"they must be integers of shape ({rows},)"
        )
    ids = group.to("cpu", torch.int64).numpy()
    order = ids.argsort(kind="stable")
    ids = ids[order]
    starts = [0, *((ids[1:] != ids[:-1]).nonzero()[0] + 1).tolist()]
    return order, list(zip(ids[starts].tolist(), starts, [*starts[1:], rows], strict=True))


def arrivals(order: Slots, parts: list[tuple[int, int, int]], known: Collection[int]) -> list[int]:
    """List the groups that are not known yet, in the order in which their first rows came.

    Example:
        >>> arrivals(*split(torch.tensor([7, 4, 5, 7]), 4), known={5})
        [7, 4]
    """
    return [id for _, id in sorted((order[start], id) for id, start, _ in parts if id not in known)]


def shares(wanted: Slots, current: Slots, capacity: int) -> Slots:
    """Share slots among groups: to each what it wants, up to a level common to all.

    Slots that are left over go to the groups that have most at present, then to the first; so
    with more groups than slots, those that came last get none.

    Example:
        >>> shares(np.array([9, 1, 9]), np.array([5, 0, 0]), 6).tolist()
        [3, 1, 2]
    """
    if wanted.sum() <= capacity:
        return wanted
    ascending = np.sort(wanted)
    below = np.cumsum(ascending) - ascending
    levels = (capacity - below) // np.arange(len(wanted), 0, -1)
    level = levels[np.argmax(ascending > levels)]
    room: Slots = np.minimum(wanted, level)
    above = np.flatnonzero(wanted > level)
    first = above[np.argsort(-current[above], kind="stable")]
    room[first[: capacity - room.sum()]] += 1
    return room


def settled(room: Mapping[int, int], groups: Iterable[int], capacity: int) -> bool:
    """Tell whether rows of these groups leave all shares of a full memory as they are.

    Example:
        >>> settled({0: 3, 1: 3}, [0], 6), settled({0: 5, 1: 1}, [1], 6)
        (True, False)
    """
    least = max(max(room.values()) - 1, 1)
    return sum(room.values()) == capacity and all(room[id] >= least for id in groups)


def slots_of(state: Mapping[str, Any], capacity: int) -> dict[int, Slots]:
    """Read each group's slots from the "ids" and "slots" of a state.

    Raises:
        StateMismatch: they are not those from 0 on, each once, in groups of different ids.

    Example:
        >>> slots_of({"ids": [7], "slots": [torch.tensor([1, 0])]}, 2)
        {7: array([1, 0])}
    """
    ids, slots = state["ids"], state["slots"]
    tensors = all(isinstance(s, Tensor) and s.dtype == torch.int64 and s.ndim == 1 for s in slots)
    numbers = all(type(id) is int for id in ids)
    if not (tensors and numbers and len(set(ids)) == len(ids) == len(slots)):
        raise StateMismatch(f"groups {ids} with {len(slots)} lists of slots; the state is damaged")
    arrays = [np.array(tensor.cpu().numpy()) for tensor in slots]
    every = np.sort(np.concatenate(arrays)) if arrays else NONE
    if len(every) > capacity or not np.array_equal(every, np.arange(len(every))):
        raise StateMismatch(f"{len(every)} slots that are not 0 to {len(every) - 1}, each once")
    return dict(zip(ids, arrays, strict=True))
