"""How a model is called: with its inputs, and with the task where it declares that it wants it."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from lifelong.core.batch import Inputs


def wants_task(model: nn.Module) -> bool:
    """Tell whether `model.forward` declares a parameter called `task`.

    Example:
        >>> wants_task(nn.Linear(2, 2))
        False
    """
    return "task" in inspect.signature(model.forward).parameters


def forward(model: nn.Module, x: Inputs, task: Tensor | None = None) -> Tensor:
    """Call the model: `model(x)`, or `model(**x)` for a dict, with `task=task` unless it is None.

    Args:
        model: any module.
        x: inputs, rows first.
        task: (rows,) int64 task ids, -1 for not known; pass None to a model that does not want it.
    """
    inputs, named = ((), x) if isinstance(x, dict) else ((x,), {})
    output: Tensor = model(*inputs, **named) if task is None else model(*inputs, **named, task=task)
    return output
