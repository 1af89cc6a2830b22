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
from lifelong.core.errors import InvalidBatch


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
        InvalidBatch: the model takes no bytes, and x is of them.
    """
    inputs, named = ((), x) if isinstance(x, dict) else ((x,), {})
    if task is not None:
        named = {**named, "task": task}
    try:
        output: Tensor = model(*inputs, **named)
    except RuntimeError as error:
        columns = x.values() if isinstance(x, dict) else (x,)
        if "dtype" in str(error) and any(column.dtype == torch.uint8 for column in columns):
            raise InvalidBatch(
                f"the model cannot take x of torch.uint8 ({error}); convert it (x.float() / 255), "
                "or put lifelong.nets.Pixels before the model"
            ) from error
        raise
    return output


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
