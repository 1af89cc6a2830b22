"""What a learner is made of, looked at once: a slip gets one line that says what to give."""

from __future__ import annotations

import inspect
import itertools
import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lifelong.core.strategy import Strategy


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
    check_instance("model", model, "")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is of {kind_of(model)}; give a torch.nn.Module")
    if optimizer is not None:
        _check_steps(optimizer)
    check_instance("loss", loss, "")
    if not callable(loss):
        raise ValueError(
            f"loss is {loss!r}; give a loss of torch, such as nn.MSELoss(), or a function of "
            "(output, y) or (output, batch)"
        )
    if whole_of(seed) is None:
        raise ValueError(f"seed is {seed!r}; give an integer")


def settings_of(precision: Any, accumulate: Any, clip: Any) -> tuple[int, float | None]:
    """Give `accumulate` and `clip` as numbers of Python, if a learner can step so.

    Raises:
        ValueError: it cannot.

    Example:
        >>> settings_of("fp32", torch.tensor(2), None)
        (2, None)
        >>> settings_of("fp32", 0, None)
        Traceback (most recent call last):
        ...
        ValueError: accumulate is 0; it must be a whole number, 1 or more
    """
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {precision!r}; choose fp32, bf16 or fp16")
    batches = whole_of(accumulate)
    if batches is None or batches < 1:
        raise ValueError(f"accumulate is {accumulate!r}; it must be a whole number, 1 or more")
    try:
        text = isinstance(clip, str | bytes | bytearray)
        largest = None if clip is None or text else float(clip)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        largest = math.nan
    if clip is not None and not (largest is not None and largest > 0):
        raise ValueError(f"clip is {clip!r}; it must be positive, or None")
    return batches, largest


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
                f"{name} is {told(value)}, but without an optimizer there is no gradient and no "
                "step; leave it out"
            )
    for strategy in strategies:
        for moment, what in (("penalty", "adds to the loss"), ("project", "changes gradients")):
            if strategy.acts(moment):
                raise ValueError(
                    f"{kind_of(strategy)} {what}, from which nothing learns without an optimizer; "
                    "leave it out, or give an optimizer and parameters that train"
                )


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
        name = kind_of(strategies)
        raise ValueError(f"strategies is a {name}; put it into a list: [{name}(...)]")
    if isinstance(strategies, type | str) or not isinstance(strategies, Iterable):
        raise ValueError(f"strategies is {told(strategies)}; give a list: [Replay(capacity=500)]")
    listed = list(strategies)
    for index, strategy in enumerate(listed):
        check_instance(f"strategies[{index}]", strategy, "...")
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"strategies[{index}] is {told(strategy)}; give an instance of a Strategy, such "
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


def _check_steps(optimizer: Any) -> None:
    check_instance("optimizer", optimizer, "model.parameters(), ...")
    if not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "step")):
        raise ValueError(
            f"optimizer is of {kind_of(optimizer)}; give one of torch: "
            "SGD(model.parameters(), lr=0.1)"
        )
    for group in optimizer.param_groups:
        lr = group.get("lr")  # an optimizer may find it by itself
        if isinstance(lr, Tensor) and lr.numel() == 1:
            lr = lr.item()
        if isinstance(lr, Real) and not math.isfinite(lr):
            raise ValueError(f"the optimizer's lr is {lr}; it must be a finite number")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{kind_of(optimizer)} computes the loss again within its step (a closure), which a "
            "learner cannot do; give one that steps on gradients, such as SGD or Adam"
        )


def check_instance(name: str, given: Any, arguments: str) -> None:
    """Raise `ValueError` if a class is given in the place of an instance.

    Example:
        >>> check_instance("loss", nn.MSELoss, "")
        Traceback (most recent call last):
        ...
        ValueError: loss is the class MSELoss; give an instance: MSELoss()
    """
    if isinstance(given, type):
        raise ValueError(
            f"{name} is the class {given.__name__}; give an instance: {given.__name__}({arguments})"
        )


def kind_of(given: Any) -> str:
    """Name the type of something.

    Example:
        >>> kind_of([1])
        'list'
    """
    return type(given).__name__


def told(given: Any) -> str:
    """Show short values as they are, others by their type.

    Example:
        >>> told([1]), told("a" * 50), told(int)
        ('[1]', 'a str', 'the class int')
    """
    if isinstance(given, type):
        return f"the class {given.__name__}"
    shown = repr(given)
    return shown if len(shown) <= 40 and "\n" not in shown else f"a {kind_of(given)}"


def whole_of(given: Any) -> int | None:
    """Give an integer of any kind as one of Python, None for anything else.

    Example:
        >>> whole_of(torch.tensor(3)), whole_of(3.0)
        (3, None)
    """
    try:
        return int(operator.index(given))
    except TypeError:
        return None
