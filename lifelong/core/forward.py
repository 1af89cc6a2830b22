"""How a model is called: with its inputs, and with the task where it declares that it wants it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lifelong.core.batch import Inputs
from lifelong.core.errors import InvalidBatch, LifelongError


def wants_task(model: nn.Module) -> bool:
    """Tell whether `model.forward` declares a parameter called `task`.

    Example:
        >>> wants_task(nn.Linear(2, 2))
        False
    """
    return "task" in inspect.signature(model.forward).parameters


def forward(model: Callable[..., Any], x: Inputs, task: Tensor | None = None) -> Tensor:
    """Call the model: `model(x)`, or `model(**x)` for a dict, with `task=task` unless it is None.

    Args:
        model: any module.
        x: inputs, rows first.
        task: (rows,) int64 task ids, -1 for not known; pass None to a model that does not want it.

    Raises:
        InvalidBatch: the model takes no numbers of the type of x, such as bytes or float64.

    What else the model raises gets a note with the shape of x.
    """
    inputs, named = ((), x) if isinstance(x, dict) else ((x,), {})
    if task is not None:
        named = {**named, "task": task}
    try:
        output: Tensor = model(*inputs, **named)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        _explain(error, {"x": x} if isinstance(x, Tensor) else x)
        raise
    return output


def _explain(error: Exception, columns: dict[str, Tensor]) -> None:
    """Say how to convert inputs if their type is at fault, else add what was received."""
    kinds = [column.dtype for column in columns.values()]
    if isinstance(error, RuntimeError) and "dtype" in str(error):
        if torch.uint8 in kinds:
            raise InvalidBatch(
                f"the model cannot take x of torch.uint8 ({error}); convert it (x.float() / 255), "
                "or put lifelong.nets.Pixels before the model"
            ) from error
        if any(kind != torch.float32 for kind in kinds):
            told = ", ".join(dict.fromkeys(map(str, kinds)))
            raise InvalidBatch(
                f"the model cannot take x of {told} ({error}); convert it: x.float()"
            ) from error
    if not isinstance(error, LifelongError):
        shapes = ", ".join(f"{n} {tuple(c.shape)} of {c.dtype}" for n, c in columns.items())
        error.add_note(f"the model received {shapes}; do the shape and type fit its first layer?")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and afterwards each of its modules in the mode it was in.

    Example:
        >>> net = nn.Dropout()
        >>> with evaluating(net): net.training
        False
        >>> net.training
        True
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def frozen_copy(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy a model with other parameters and buffers, in eval mode, never to learn: a teacher.

    Args:
        model: is left as it is.
        tensors: by the names of parameters and buffers; used, not copied. What the model has
            gained since they were taken is 0, so that the copy does not depend on what that has
            learned meanwhile.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # Told that these are the copies of its tensors, deepcopy puts them in, in every place.
    memo: dict[int, Tensor] = {
        id(own[name]): nn.Parameter(tensor, requires_grad=False)
        if isinstance(own[name], nn.Parameter)
        else tensor
        for name, tensor in tensors.items()
        if name in own
    }
    copied = copy.deepcopy(model, memo).requires_grad_(False).eval()
    for name, gained in (*copied.named_parameters(), *copied.named_buffers()):
        if name not in tensors:
            gained.data.zero_()
    return copied
