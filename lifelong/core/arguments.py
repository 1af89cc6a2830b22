"""What a learner is given, looked at once: a slip gets one line that says what to give instead."""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lifelong.core.batch import Batch, checked_inputs
from lifelong.core.errors import InvalidBatch
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec


def check_parts(model: Any, optimizer: Any, loss: Any, seed: Any) -> None:
    """Raise `ValueError` unless a learner can be made of these.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> check_parts(net, torch.optim.SGD, nn.MSELoss(), 0)
        Traceback (most recent call last):
        ...
        ValueError: optimizer is the class SGD; give an instance: SGD(model.parameters(), ...)
    """
    if isinstance(model, Optimizer) and isinstance(optimizer, nn.Module):
        raise ValueError(
            f"the model is of {type(model).__name__} and the optimizer of "
            f"{type(optimizer).__name__}; swap them: Learner(model, optimizer, strategies)"
        )
    _check_instance("model", model, "")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is of {_type(model)}; give a torch.nn.Module")
    if optimizer is not None:
        _check_steps(optimizer)
    _check_instance("loss", loss, "")
    if not callable(loss):
        raise ValueError(
            f"loss is {loss!r}; give a loss of torch, such as nn.MSELoss(), or a function of "
            "(output, y) or (output, batch)"
        )
    if _whole(seed) is None:
        raise ValueError(f"seed is {seed!r}; give an integer")


def check_settings(precision: Any, accumulate: Any, clip: Any) -> None:
    """Raise `ValueError` unless a learner can step so.

    Example:
        >>> check_settings("fp32", 0, None)
        Traceback (most recent call last):
        ...
        ValueError: accumulate is 0; it must be 1 or more
    """
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {precision!r}; choose fp32, bf16 or fp16")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate is {accumulate!r}; it must be 1 or more")
    if clip is not None and not (isinstance(clip, Real) and float(clip) > 0):
        raise ValueError(f"clip is {clip!r}; it must be positive, or None")


def check_still(
    strategies: list[Strategy], precision: str, accumulate: int, clip: Any, scheduler: Any
) -> None:
    """Raise `ValueError` unless a learner without an optimizer can do with these.

    Example:
        >>> check_still([], "fp32", 1, 0.5, None)
        Traceback (most recent call last):
        ...
        ValueError: clip is 0.5, but without an optimizer there is no gradient and no step; leave \
it out
    """
    given = {"clip": clip, "scheduler": scheduler}
    if precision == "fp16":
        given["precision"] = precision
    if accumulate != 1:
        given["accumulate"] = accumulate
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is {_told(value)}, but without an optimizer there is no gradient and no "
                "step; leave it out"
            )
    for strategy in strategies:
        for moment, what in (("penalty", "adds to the loss"), ("project", "changes gradients")):
            if strategy.acts(moment):
                raise ValueError(
                    f"{_type(strategy)} {what}, from which nothing learns without an optimizer; "
                    "leave it out, or give an optimizer and parameters that train"
                )


def strategies_of(strategies: Any) -> list[Strategy]:
    """List the strategies.

    Raises:
        ValueError: it is one strategy and no list, or holds something else.

    Example:
        >>> strategies_of(Strategy())
        Traceback (most recent call last):
        ...
        ValueError: strategies is a Strategy; put it into a list: [Strategy(...)]
    """
    if isinstance(strategies, Strategy):
        name = _type(strategies)
        raise ValueError(f"strategies is a {name}; put it into a list: [{name}(...)]")
    if isinstance(strategies, type | str) or not isinstance(strategies, Iterable):
        raise ValueError(f"strategies is {_told(strategies)}; give a list: [Replay(capacity=500)]")
    listed = list(strategies)
    for index, strategy in enumerate(listed):
        _check_instance(f"strategies[{index}]", strategy, "...")
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"strategies[{index}] is {_told(strategy)}; give an instance of a Strategy, such "
                "as Replay(capacity=500)"
            )
    return listed


def device_of(device: str | torch.device | None, model: nn.Module) -> torch.device:
    """Name in full where to compute: the model's own place by default.

    Raises:
        ValueError: there is no such device here.

    Example:
        >>> device_of(None, nn.Linear(2, 2))
        device(type='cpu')
    """
    if device is None:
        tensors = itertools.chain(model.parameters(), model.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))
    return named_device(device, "leave it out for where the model is")


def named_device(device: str | torch.device, way_out: str) -> torch.device:
    """Name a device in full, as its tensors do, so that two names of one are equal.

    Args:
        device: as in torch.
        way_out: what else one can do where there is no such device.

    Raises:
        ValueError: there is no such device here.

    Example:
        >>> named_device("cpu", "take the CPU")
        device(type='cpu')
    """
    try:
        # A tensor made there knows its full name: "cuda" becomes "cuda:0".
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:
        have = ["cpu"]
        if torch.accelerator.is_available():
            have.append(str(torch.accelerator.current_accelerator()))
        raise ValueError(
            f"device {str(device)!r} cannot be used here; give one of {', '.join(have)}, "
            f"or {way_out}"
        ) from error


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
        given, found = None, _told(keys)
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
    _check_instance("task", task, "0, classes=(0, 1)")
    if (alone := _whole(task)) is not None:
        return TaskSpec(alone)
    try:
        id, classes = task.id, task.classes
    except AttributeError as error:
        raise ValueError(
            f"task is {_told(task)}; give an id, such as 0, or what has an id and classes: "
            "TaskSpec(0, classes=(0, 1))"
        ) from error
    whole = _whole(id)
    classes = tuple(classes) if isinstance(classes, Iterable) else classes
    return TaskSpec(id if whole is None else whole, classes)


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
    if (_whole(rows) or 0) < 1:
        raise ValueError(
            f"rows is {rows!r}; how many to compute at once must be an integer of 1 or more"
        )
    first = x if isinstance(x, Tensor) else next(iter(checked_inputs(x).values()))
    if first.ndim == 0:
        raise InvalidBatch("x is a single number; give rows, be it one: x.reshape(1, -1)")
    if not isinstance(task, Tensor):
        id = -1 if task is None else _whole(task)
        if id is None:
            raise InvalidBatch(
                f"task is {task!r}; give an id, an int64 tensor of one id a row, or None"
            )
        task = torch.full((len(first),), id)
    return Batch.of(x, torch.zeros(len(first)), task)


def no_batch(received: Any) -> InvalidBatch:
    """Say that something is no batch, as the error to raise.

    Example:
        >>> print(no_batch((1, 2)))
        received an object of type tuple, not a Batch; make one: Batch.of(x, y)
    """
    return InvalidBatch(
        f"received an object of type {_type(received)}, not a Batch; make one: Batch.of(x, y)"
    )


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


def extended_by(strategy: Strategy, batch: Any) -> Batch:
    """Give back what a strategy's `extend` has returned, if it is a batch.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(batch, Batch):
        raise TypeError(
            f"{type(strategy).__name__}.extend returned an object of type {_type(batch)}; return "
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
        f"{type(strategy).__name__}.penalty returned an object of type {_type(penalty)}, {told}; "
        "return a scalar, such as the mean over rows, or 0.0"
    )


def _check_steps(optimizer: Any) -> None:
    _check_instance("optimizer", optimizer, "model.parameters(), ...")
    if not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "step")):
        raise ValueError(
            f"optimizer is of {_type(optimizer)}; give one of torch: "
            "SGD(model.parameters(), lr=0.1)"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{_type(optimizer)} computes the loss again within its step (a closure), which a "
            "learner cannot do; give one that steps on gradients, such as SGD or Adam"
        )


def _check_instance(name: str, given: Any, arguments: str) -> None:
    if isinstance(given, type):
        raise ValueError(
            f"{name} is the class {given.__name__}; give an instance: {given.__name__}({arguments})"
        )


def _type(given: Any) -> str:
    return type(given).__name__


def _whole(given: Any) -> int | None:
    """Give an integer of any kind as one of Python, None for anything else."""
    try:
        return int(operator.index(given))
    except TypeError:
        return None


def _told(given: Any) -> str:
    """Show short values as they are, others by their type."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    shown = repr(given)
    return shown if len(shown) <= 40 and "\n" not in shown else f"a {_type(given)}"


def check_taught(model: nn.Module, strategies: list[Strategy]) -> None:
    """Raise unless modules that learn through a strategy of their own have it beside them.

    A module names it in `taught_by`, a class attribute.

    Raises:
        ValueError: the strategy is not there, so that the module would not learn what it should.
    """
    around = [getattr(strategy, "inner", strategy) for strategy in strategies]  # as `Adaptive` has
    there = {base.__name__ for strategy in around for base in type(strategy).__mro__}
    for module in model.modules():
        wanted = getattr(type(module), "taught_by", None)
        if wanted is not None and wanted not in there:
            raise ValueError(
                f"{type(module).__name__} learns through the strategy {wanted}, and the strategies "
                f"are {strategies}; add {wanted}"
            )
