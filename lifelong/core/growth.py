"""Parameters that belong together: the model's, the optimizer's, and those a task adds to both."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lifelong.core.errors import OptimizerMismatch
from lifelong.core.task import Growing, TaskSpec


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name the parameters that learn; one that is used twice has its first name.

    Example:
        >>> list(trainable(nn.Linear(2, 3)))
        ['weight', 'bias']
    """
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_optimizer(model: nn.Module, optimizer: Optimizer | None) -> None:
    """Raise unless the optimizer holds exactly the trainable parameters of the model.

    Raises:
        ValueError: the model has nothing to train and nothing that grows.
        OptimizerMismatch: parameters are missing or foreign, by name and shape, or there is no
            optimizer.
    """
    named = trainable(model)
    if optimizer is None:
        check_still(list(named))
        return
    if not named and not any(isinstance(module, Growing) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no trainable parameters; set requires_grad on some, or "
            "give None for the optimizer where nothing shall train"
        )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    known = {id(p) for p in named.values()}
    missing = [name for name, p in named.items() if id(p) not in {id(h) for h in held}]
    if missing:
        raise OptimizerMismatch(
            f"the optimizer misses {_told(missing)}; make it with model.parameters(), or set "
            "requires_grad=False on what shall stay as it is"
        )
    # Parameters of the model that do not train may stay: optimizers skip them.
    known |= {id(p) for p in model.parameters()}
    foreign = [tuple(p.shape) for p in held if id(p) not in known]
    if foreign:
        raise OptimizerMismatch(
            f"the optimizer holds {len(foreign)} parameters of another model, of shapes "
            f"{', '.join(map(str, foreign[:5]))}; make it with this model's parameters"
        )


def check_still(named: list[str]) -> None:
    """Raise unless there is nothing to train for an optimizer that is not there.

    Example:
        >>> check_still(["head.weight"])
        Traceback (most recent call last):
        ...
        lifelong.core.errors.OptimizerMismatch: there is no optimizer, and head.weight would never \
learn; give one, or set requires_grad=False on what shall stay as it is
    """
    if named:
        raise OptimizerMismatch(
            f"there is no optimizer, and {_told(named)} would never learn; give one, or set "
            "requires_grad=False on what shall stay as it is"
        )


def check_known(model: nn.Module, optimizer: Optimizer | None) -> None:
    """Raise unless the optimizer knows of all that would train, so that a state can be resumed.

    Raises:
        OptimizerMismatch: parameters have come since, such as a set for a task not yet begun.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> from torch.optim import SGD
        >>> optimizer = SGD(net.parameters(), lr=0.1)
        >>> check_known(net.append(nn.Linear(2, 3)), optimizer)
        Traceback (most recent call last):
        ...
        lifelong.core.errors.OptimizerMismatch: the optimizer does not know of 1.weight, 1.bias, \
so no other learner could take the state; if they are for a task that has not begun, begin it \
before saving (begin_task(5) for pairs.5), else freeze them with requires_grad=False
    """
    if optimizer is None:
        return
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    unknown = [name for name, p in trainable(model).items() if id(p) not in held]
    if unknown:
        raise OptimizerMismatch(
            f"the optimizer does not know of {_told(unknown)}, so no other learner could take the "
            "state; if they are for a task that has not begun, begin it before saving "
            "(begin_task(5) for pairs.5), else freeze them with requires_grad=False"
        )


def grow(
    model: nn.Module, task: TaskSpec, optimizer: Optimizer | None = None, *, still: bool = False
) -> list[nn.Parameter]:
    """Let every growing module of the model grow for a task; return the task's parameters.

    The optimizer adopts them. If one of the modules refuses, all are as they were.

    Raises:
        OptimizerMismatch: nothing may train (`still`), and there are parameters that would.
    """
    new: dict[int, nn.Parameter] = {}
    with _undone_on_error(model):
        for module in list(model.modules()):
            if isinstance(module, Growing):
                new |= {id(p): p for p in module.grow(task)}
        if still:
            check_still(list(trainable(model)))
    if optimizer is not None:
        adopt(optimizer, list(new.values()))
    return list(new.values())


@contextmanager
def _undone_on_error(model: nn.Module) -> Iterator[None]:
    """If growing fails, put back what modules hold, what trains and what tensors contain."""
    modules = [(module, dict(vars(module))) for module in model.modules()]
    containers = _containers([value for _, own in modules for value in own.values()])
    trained = [(p, p.requires_grad) for p in model.parameters()]
    # Others leave weights that are there alone, so a large network is not copied for nothing.
    rewriting = [module for module in model.modules() if getattr(module, "rewrites", False)]
    tensors = itertools.chain(model.buffers(), *(module.parameters() for module in rewriting))
    own = {id(tensor): tensor for tensor in tensors}
    values = [(tensor, tensor.detach().clone()) for tensor in own.values()]
    try:
        yield
    except BaseException:
        for module, attributes in modules:
            vars(module).clear()
            vars(module).update(attributes)
        for container, before in containers.values():
            container.clear()
            container.extend(before) if isinstance(container, list) else container.update(before)
        for parameter, trains in trained:
            parameter.requires_grad_(trains)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        raise


def _containers(values: list[Any]) -> dict[int, tuple[Any, Any]]:
    """Find containers, and those within them, each with a copy one level deep, by their id."""
    found: dict[int, tuple[Any, Any]] = {}
    passed: set[int] = set()
    left = list(values)
    while left:
        value = left.pop()
        if not isinstance(value, dict | list | set | tuple) or id(value) in passed:
            continue
        passed.add(id(value))
        if not isinstance(value, tuple):
            found[id(value)] = value, copy.copy(value)
        if not isinstance(value, set):
            inner = value.values() if isinstance(value, dict) else value
            left += [one for one in inner if isinstance(one, dict | list | set | tuple)]
    return found


def adopt(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Give new parameters to the optimizer's last group, keeping the moments of all others.

    What they have gathered before, with no optimizer that clears it, is no gradient of a step.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = [p for p in parameters if id(p) not in held]
    for parameter in new:
        parameter.grad = None
    optimizer.param_groups[-1]["params"].extend(new)


def _told(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
