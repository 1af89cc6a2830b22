"""Sets of adapters apart from their model: taken out, put in, and in files of a few KB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifelong.core import checkpoint
from lifelong.core.errors import StateMismatch, UnknownTask
from lifelong.core.strategy import State
from lifelong.nets.adapters import Adapter, adapters


def adapter_state(model: nn.Module, task: int | None = None) -> State:
    """Copy one set: its factors by the name of their layer, and what they are. The head is not in.

    Args:
        model: one with adapters.
        task: whose set; None for the one that all tasks share.

    Raises:
        ValueError: the model has no adapters.
        UnknownTask: the task has no set; or tasks have sets, and none is named.

    Example:
        >>> from lifelong.nets import add_lora
        >>> net = add_lora(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), rank=2)
        >>> {name: tuple(t.shape) for name, t in adapter_state(net)["layers"]["0"].items()}
        {'down.weight': (2, 8), 'up.weight': (4, 2)}
    """
    found = _adapters(model)
    name = _name(task)
    layers = {}
    for path, layer in found.items():
        if name not in layer.pairs:
            raise _no_set(task, layer)
        state = layer.pairs[name].state_dict()
        layers[path] = {key: tensor.detach().cpu().clone() for key, tensor in state.items()}
    return {**_kind(found), "layers": layers}


def load_adapter_state(model: nn.Module, state: State, task: int | None = None) -> None:
    """Put a set in, for a task that may have none yet, or another id than it was taken from.

    In the model of a learner, the optimizer takes it over when its task begins, and until then the
    learner gives no state: no other could take it. So let the task begin first. Where sets are
    summed it adds to the outputs at once, and those before it learn until its task begins.

    Args:
        model: one with the same adapters.
        state: what `adapter_state` gave.
        task: whose set it becomes; None where tasks share one.

    Raises:
        StateMismatch: it was taken from other layers, or is of another kind, rank or shape; the
            model is as it was.
        ValueError: the model has no adapters or is merged, or tasks have sets of their own and none
            is named.

    Example:
        >>> from lifelong.nets import add_lora
        >>> nets = [
        ...     add_lora(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), rank=n) for n in (2, 3)
        ... ]
        >>> load_adapter_state(nets[1], adapter_state(nets[0]))
        Traceback (most recent call last):
        ...
        lifelong.core.errors.StateMismatch: a set with rank=2, the model has rank=3; make the \
model with the same adapters
    """
    found = _adapters(model)
    _check(found, state)
    for layer in found.values():
        layer.check_unmerged()
    shared = next(iter(found.values())).sets == "shared"
    if shared != (task is None):
        raise ValueError(
            f"task is {task}, and the model has "
            f"{'one set that all tasks share' if shared else 'a set for each task: name it'}"
        )
    for path, layer in found.items():
        layer.set_of(_name(task))
        layer.pairs[_name(task)].load_state_dict(state["layers"][path])


def save_adapter(path: str | Path, model: nn.Module, task: int | None = None) -> None:
    """Write one set to a file: a valid safetensors file, whole or not at all, with a checksum.

    Raises:
        CheckpointError: the file cannot be written. What else is raised: see `adapter_state`.
    """
    checkpoint.save(path, adapter_state(model, task))


def load_adapter(path: str | Path, model: nn.Module, task: int | None = None) -> None:
    """Read a set that `save_adapter` wrote and put it in.

    Raises:
        CheckpointError: the file is missing, truncated, altered or foreign. What else is raised:
            see `load_adapter_state`.

    Example:
        >>> import tempfile
        >>> from lifelong.nets import add_lora
        >>> net = add_lora(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), rank=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_adapter(f"{folder}/set.safetensors", net)
        ...     load_adapter(f"{folder}/set.safetensors", net)
    """
    load_adapter_state(model, checkpoint.load(path), task)


def _adapters(model: nn.Module) -> dict[str, Adapter]:
    found = dict(adapters(model))
    if not found:
        raise ValueError(f"{type(model).__name__} has no adapters; add_lora(model) first")
    return found


def _name(task: int | None) -> str:
    return "shared" if task is None else str(task)


def _no_set(task: int | None, layer: Adapter) -> UnknownTask:
    if layer.sets == "shared":
        return UnknownTask(f"task {task} has no set of its own: all tasks share one; name no task")
    told = f"there are sets for the tasks {', '.join(layer.pairs) or '(none yet)'}"
    if task is None:
        return UnknownTask(f"no task is named, and each has a set of its own; {told}: name one")
    return UnknownTask(f"task {task} has no set here; {told}")


def _kind(found: dict[str, Adapter]) -> dict[str, Any]:
    layer = next(iter(found.values()))
    alpha = getattr(layer, "alpha", None)
    return {"kind": type(layer).__name__, "rank": layer.rank, "alpha": alpha}


def _check(found: dict[str, Adapter], state: Any) -> None:
    own = _kind(found)
    if not isinstance(state, dict) or state.keys() != {*own, "layers"}:
        raise StateMismatch("not a set of adapters; give what adapter_state(model) gave")
    for name, value in own.items():
        if state[name] != value:
            raise StateMismatch(
                f"a set with {name}={state[name]!r}, the model has {name}={value!r}; make the "
                "model with the same adapters"
            )
    layers = state["layers"]
    if not isinstance(layers, dict) or layers.keys() != found.keys():
        odd = sorted(map(str, {*layers} ^ {*found}))
        raise StateMismatch(
            f"a set for other layers; only one of it and the model has {', '.join(odd[:5])}"
        )
    for path, layer in found.items():
        with torch.device("meta"):
            wanted = layer.new_pair().state_dict()
        given = layers[path]
        if not isinstance(given, dict):
            raise StateMismatch(
                f"the set is damaged: {path} is of type {type(given).__name__}, not a dict of "
                "tensors; take it out of its model again: adapter_state(model)"
            )
        for key, tensor in wanted.items():
            value = given.get(key)
            if not isinstance(value, Tensor) or value.shape != tensor.shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else value
                raise StateMismatch(
                    f"{path}/{key} is {shape} in the set, {tuple(tensor.shape)} in the model; "
                    "load it into the network it was taken from"
                )
        if given.keys() != wanted.keys():
            unknown = sorted(map(str, given.keys() - wanted.keys()))
            raise StateMismatch(f"{path} has unknown parts {unknown}")
