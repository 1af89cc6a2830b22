"""Looking into states: where two of them differ, what they hold, how much room that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lifelong.core.learner import Learner

PLAIN = (bool, int, float, str, type(None))


class CheckFailed(AssertionError):
    """A strategy breaks a promise that all strategies make.

    Attributes:
        check: the name of the check, as in `CHECKS`.

    Example:
        >>> raise CheckFailed("stays_bounded", "alone", "it grows", "bound it")
        Traceback (most recent call last):
        ...
        lifelong.checks.states.CheckFailed: stays_bounded (alone): it grows; bound it
    """

    def __init__(self, check: str, setting: str, found: str, advice: str) -> None:
        super().__init__(f"{check} ({setting}): {found}; {advice}")
        self.check = check


def strategies_state(learner: Learner) -> dict[str, Any]:
    """Gather the states of a learner's strategies; tensors are referenced."""
    return {
        f"{index} {type(strategy).__name__}": strategy.state_dict()
        for index, strategy in enumerate(learner.strategies)
    }


def difference(one: Any, other: Any, path: str = "state") -> str | None:
    """Say where two states differ first, bit for bit; None if they do not.

    Example:
        >>> difference({"w": torch.zeros(2)}, {"w": torch.tensor([0.0, 1.0])})
        'state/w (1 of 2 values)'
        >>> difference([1, "a"], [1, "a"])
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _tensors_differ(one, other, path)
    if type(one) is not type(other):
        return f"{path} ({type(one).__name__}, {type(other).__name__})"
    if isinstance(one, dict):
        if one.keys() != other.keys():
            odd = sorted(map(str, one.keys() ^ other.keys()))
            return f"{path} (only one of them has {', '.join(odd[:5])})"
        pairs = [(str(name), one[name], other[name]) for name in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{path} ({len(one)} and {len(other)} entries)"
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        same = one == other or (one != one and other != other)
        return None if same else f"{path} ({one!r}, {other!r})"
    found = (difference(a, b, f"{path}/{name}") for name, a, b in pairs)
    return next((place for place in found if place is not None), None)


def leaves(state: Any, path: str = "state") -> Iterator[tuple[str, Any]]:
    """Go over everything in a state that is no list or dict, each with its path."""
    if isinstance(state, dict):
        for name, part in state.items():
            yield from leaves(part, f"{path}/{name}")
    elif isinstance(state, list | tuple):
        for index, part in enumerate(state):
            yield from leaves(part, f"{path}/{index}")
    else:
        yield path, state


def odd_part(state: Any, path: str = "state") -> str | None:
    """Name the first part that is no tensor, number, string, None, list or dict.

    Example:
        >>> odd_part({"seen": 3, "ids": {1, 2}})
        'state/ids, a set'
    """
    if type(state) is dict:
        if odd := next((name for name in state if type(name) not in (str, int)), None):
            return f"{path}, a dict with the key {odd!r}"
        parts = state.items()
    elif type(state) is list:
        parts = enumerate(state)  # type: ignore[assignment]
    else:
        plain = isinstance(state, Tensor) or type(state) in PLAIN
        return None if plain else f"{path}, a {type(state).__name__}"
    found = (odd_part(part, f"{path}/{name}") for name, part in parts)
    return next((place for place in found if place is not None), None)


def size(state: Any) -> int:
    """Count the bytes of a state: of tensors what they hold (8 at least), 8 for a number, 1 for a
    letter.

    Example:
        >>> size({"w": torch.zeros(3), "seen": 4, "ids": [1, 2]})
        36
    """
    total = 0
    for _, leaf in leaves(state):
        if isinstance(leaf, Tensor):
            total += max(leaf.nbytes, 8)  # a list of scalars grows as one of numbers does
        else:
            total += len(leaf) if isinstance(leaf, str) else 8
    return total


def trace(state: Any, keys: Tensor, rows: Tensor) -> str | None:
    """Name the first part of a state that holds one of these ids, or one of these rows.

    Tensors are searched with all of their memory, also where they are views of something longer.

    Args:
        state: where to search.
        keys: (rows,) int64 ids.
        rows: (rows, ...) values, searched for by the bytes of each row.

    Example:
        >>> rows = torch.rand(2, 4)
        >>> trace({"kept": rows[:1]}, torch.tensor([77]), rows[1:])
        'state/kept holds the values of a row'
    """
    ids = set(keys.tolist())
    values = [row.contiguous().view(torch.uint8).numpy().tobytes() for row in rows]
    for path, leaf in leaves(state):
        if isinstance(leaf, Tensor):
            whole = leaf.detach().cpu().untyped_storage()
            memory = bytes(torch.empty(0, dtype=torch.uint8).set_(whole).numpy())
            counts = not leaf.is_floating_point() and leaf.dtype != torch.bool
            if counts and bool(torch.isin(leaf.cpu(), keys).any()):
                return f"{path} holds the id of a row"
            if any(value in memory for value in values):
                return f"{path} holds the values of a row"
        elif type(leaf) is int and leaf in ids:
            return f"{path} is the id of a row"
    return None


def _tensors_differ(one: Tensor, other: Tensor, path: str) -> str | None:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{path} ({one.dtype} {tuple(one.shape)}, {other.dtype} {tuple(other.shape)})"
    if one.numel() == 0:
        return None
    same = _bytes(one) == _bytes(other)
    if same.all():
        return None
    values = int((~same.view(one.numel(), -1).all(1)).sum())
    return f"{path} ({values} of {one.numel()} values)"


def _bytes(tensor: Tensor) -> Tensor:
    # A tensor of one element may have any stride, and then could not be viewed as bytes.
    fresh = torch.empty(tensor.numel(), dtype=tensor.dtype)
    return fresh.copy_(tensor.detach().flatten()).view(torch.uint8)
