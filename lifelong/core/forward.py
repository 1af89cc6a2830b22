"""How a model is called: with its inputs, and with the task where it declares that it wants it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lifelong.core.batch import Inputs


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
    """
    inputs, named = ((), x) if isinstance(x, dict) else ((x,), {})
    output: Tensor = model(*inputs, **named) if task is None else model(*inputs, **named, task=task)
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


def frozen_output(
    model: nn.Module, weights: dict[str, Tensor], x: Inputs, task: Tensor | None
) -> Tensor:
    """Run the model in eval mode on other weights and buffers, without gradients: a teacher.

    Args:
        model: the module that learns; parameters it has gained since `weights` were taken are
            used as they are now.
        weights: tensors by the names of parameters and buffers.
        x: inputs, rows first.
        task: as in `forward`.
    """
    inputs, named = ((), dict(x)) if isinstance(x, dict) else ((x,), {})
    if task is not None:
        named["task"] = task
    with evaluating(model), torch.no_grad():
        output: Tensor = functional_call(model, weights, inputs, named)
    return output
