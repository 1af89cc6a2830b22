"""What a learner is called with: a slip gets one line that says what to give instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lifelong.core.arguments import check_instance, kind_of, told, whole_of
from lifelong.core.batch import Batch, checked_inputs
from lifelong.core.errors import InvalidBatch
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec


def spec_of(task: Any) -> TaskSpec:
    """Give the id and the classes of a task, which may be an id alone, an integer of any kind.

    Raises:
        ValueError: it is neither an integer nor something with an id and classes.

    Example:
        >>> spec_of(torch.tensor(1))
        TaskSpec(id=1, classes=())
        >>> spec_of(None)
        Traceback (most recent call last):
        ...
        ValueError: task is None; give an id, such as 0, or what has an id and classes: \
TaskSpec(0, classes=(0, 1))
    """
    check_instance("task", task, "0, classes=(0, 1)")
    if (alone := whole_of(task)) is not None:
        return TaskSpec(alone)
    try:
        id, classes = task.id, task.classes
    except AttributeError as error:
        raise ValueError(
            f"task is {told(task)}; give an id, such as 0, or what has an id and classes: "
            "TaskSpec(0, classes=(0, 1))"
        ) from error
    whole = whole_of(id)
    classes = tuple(classes) if isinstance(classes, Iterable) else classes
    return TaskSpec(id if whole is None else whole, classes)


def no_task(last: int) -> InvalidBatch:
    """Say that rows do not tell their task when none is open, as the error to raise.

    Example:
        >>> print(no_task(3))
        rows that do not say their task, and no task is open since task 3 ended; begin one, \
begin_task(4), or say it: Batch.of(x, y, task=3)
    """
    return InvalidBatch(
        f"rows that do not say their task, and no task is open since task {last} ended; begin one, "
        f"begin_task({last + 1}), or say it: Batch.of(x, y, task={last})"
    )


def no_batch(received: Any) -> InvalidBatch:
    """Say that something is no batch, as the error to raise.

    Example:
        >>> print(no_batch((1, 2)))
        received an object of type tuple, not a Batch; make one: Batch.of(x, y)
    """
    return InvalidBatch(
        f"received an object of type {kind_of(received)}, not a Batch; make one: Batch.of(x, y)"
    )


def never_ended(strategies: Sequence[Strategy], steps: int) -> str:
    """Say that strategies wait for the end of a task in a stream where none begins.

    Example:
        >>> from lifelong import EWC
        >>> print(never_ended([EWC()], 1000))
        1000 steps with no task begun and nothing consolidated: what EWC does when a task ends has \
not been done; call learner.consolidate(batches) now and then, or begin and end tasks
    """
    names = list(dict.fromkeys(type(strategy).__name__ for strategy in strategies))
    return (
        f"{steps} steps with no task begun and nothing consolidated: what {', '.join(names)} "
        f"{'do' if len(names) > 1 else 'does'} when a task ends has not been done; call "
        "learner.consolidate(batches) now and then, or begin and end tasks"
    )


def count_of(strategy: Strategy, entries: Any) -> int:
    """Give back what a strategy's `forget` has returned, as a number; None stands for 0.

    Raises:
        TypeError: it is no number of entries.

    Example:
        >>> count_of(Strategy(), None)
        0
    """
    count = 0 if entries is None else whole_of(entries)
    if count is None or count < 0:
        raise TypeError(
            f"{type(strategy).__name__}.forget returned an object of type {kind_of(entries)}; "
            "return how many entries were erased, or nothing"
        )
    return count


def query_of(x: Any, task: Any, rows: Any) -> Batch:
    """Make a batch of the rows to predict for, without targets.

    Args:
        x: inputs, rows first.
        task: an id, a tensor of them, or None.
        rows: how many of them to compute at once.

    Raises:
        InvalidBatch: the inputs are none, or the task is neither an id nor a tensor of them.
        ValueError: so many rows cannot be computed at once.

    Example:
        >>> query_of(torch.zeros(2, 3), None, rows=0)
        Traceback (most recent call last):
        ...
        ValueError: rows is 0; how many to compute at once must be an integer of 1 or more
    """
    if (whole_of(rows) or 0) < 1:
        raise ValueError(
            f"rows is {rows!r}; how many to compute at once must be an integer of 1 or more"
        )
    first = x if isinstance(x, Tensor) else next(iter(checked_inputs(x).values()))
    if first.ndim == 0:
        raise InvalidBatch("x is a single number; give rows, be it one: x.reshape(1, -1)")
    if not isinstance(task, Tensor):
        id = -1 if task is None else whole_of(task)
        if id is None:
            raise InvalidBatch(
                f"task is {task!r}; give an id, an int64 tensor of one id a row, or None"
            )
        task = torch.full((len(first),), id)
    return Batch.of(x, torch.zeros(len(first)), task)


def extended_by(strategy: Strategy, batch: Any) -> Batch:
    """Give back what a strategy's `extend` has returned, if it is a batch.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(batch, Batch):
        raise TypeError(
            f"{type(strategy).__name__}.extend returned an object of type {kind_of(batch)}; return "
            "the batch, as it came or a longer one"
        )
    return batch


def scalar_of(strategy: Strategy, penalty: Any) -> Tensor | float:
    """Give back what a strategy's `penalty` has returned, if it can be added to the loss.

    Raises:
        TypeError: it is no number, or has a value a row.

    Example:
        >>> scalar_of(Strategy(), 0.5)
        0.5
    """
    if (isinstance(penalty, Tensor) and penalty.ndim == 0) or isinstance(penalty, Real):
        return penalty  # type: ignore[return-value]
    told = f"of shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else "no number"
    raise TypeError(
        f"{type(strategy).__name__}.penalty returned an object of type {kind_of(penalty)}, {told}; "
        "return a scalar, such as the mean over rows, or 0.0"
    )


def keys_of(keys: Any) -> Tensor:
    """Give the ids of rows as (rows,) int64.

    Raises:
        ValueError: they are no integers; to cut them off would name other rows.

    Example:
        >>> keys_of(range(3))
        tensor([0, 1, 2])
        >>> keys_of([101.5])
        Traceback (most recent call last):
        ...
        ValueError: keys are of torch.float32; the ids of rows are integers: give those, as a \
list or an int64 tensor
    """
    try:
        given = torch.as_tensor(keys)
        found = str(given.dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        given, found = None, told(keys)
    whole = given is not None and not (
        given.is_floating_point() or given.is_complex() or given.dtype in (torch.bool, torch.uint64)
    )
    if given is None or not (whole or given.numel() == 0):
        raise ValueError(
            f"keys are of {found}; the ids of rows are integers: give those, as a list or an "
            "int64 tensor"
        )
    return given.to(torch.int64).flatten()


def names_of(keys: Any) -> Tensor:
    """Give the ids of rows as `keys_of` does, if each names one.

    Raises:
        ValueError: as `keys_of`, or -1 is among them.

    Example:
        >>> names_of([3, -1])
        Traceback (most recent call last):
        ...
        ValueError: -1 is among the keys, which rows have that were given none: by it none can be \
told from another; give rows ids, Batch.of(..., key=ids), before they are learned from
    """
    given = keys_of(keys)
    if bool((given == -1).any()):
        raise ValueError(
            "-1 is among the keys, which rows have that were given none: by it none can be told "
            "from another; give rows ids, Batch.of(..., key=ids), before they are learned from"
        )
    return given
