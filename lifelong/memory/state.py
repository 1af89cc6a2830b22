"""What the states of the memory and of its policies have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.memory.rows import same_length


def expect(state: Any, own: Mapping[str, Any], owner: str, fixed: tuple[str, ...]) -> None:
    """Make sure that a state has the keys, types and settings of its owner's present state.

    Args:
        state: what is to be loaded.
        own: the owner's present state.
        owner: what it is, for the message.
        fixed: the keys whose values must be equal, as they were set for good.

    Raises:
        StateMismatch: it has not.

    Example:
        >>> expect({"capacity": 3}, {"capacity": 3}, "memory", fixed=("capacity",))
        >>> expect({"capacity": 4}, {"capacity": 3}, "memory", fixed=("capacity",))
        Traceback (most recent call last):
        ...
        lifelong.core.errors.StateMismatch: a state with capacity 4 for a memory with capacity 3; \
make the memory with capacity=4
    """
    if not isinstance(state, Mapping) or state.keys() != own.keys():
        told = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise StateMismatch(
            f"a state with {told} for a {owner}, whose states have {sorted(own)}; "
            "load it into what it was saved from"
        )
    for key, value in own.items():
        kind = Mapping if isinstance(value, dict) else type(value)
        if not isinstance(state[key], kind) or isinstance(state[key], bool):
            raise StateMismatch(
                f"{key} is of type {type(state[key]).__name__} in a state of a {owner}; "
                f"it must be of type {type(value).__name__}"
            )
        if key in fixed and state[key] != value:
            raise StateMismatch(
                f"a state with {key} {state[key]!r} for a {owner} with {key} {value!r}; "
                f"make the {owner} with {key}={state[key]!r}"
            )


def check_columns(columns: Mapping[str, Any], held: Mapping[str, Tensor]) -> int:
    """Count the rows of a state's columns, after a look at their kinds.

    Args:
        columns: of the state.
        held: of the memory that is to be filled; empty if there are none yet.

    Raises:
        StateMismatch: they are no tensors, differ in rows, or are other than those held.
    """
    if not all(isinstance(column, Tensor) for column in columns.values()):
        raise StateMismatch("columns must be a dict of tensors in a state of a memory")
    if not columns:
        return 0
    if held and _kinds(columns) != _kinds(held):
        raise StateMismatch(
            f"a state with columns {_kinds(columns)} for a memory with {_kinds(held)}; load it "
            "into a new memory, or one that was given the same columns"
        )
    try:
        return same_length(columns)
    except InvalidBatch as error:
        raise StateMismatch(f"a memory's state is damaged: {error}") from error


def _kinds(columns: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe columns by type and by the shape of their rows but for the last dimension."""
    return {
        name: f"{column.dtype} {tuple(column.shape[1:-1])} of {column.ndim} dimensions"
        for name, column in sorted(columns.items())
    }
