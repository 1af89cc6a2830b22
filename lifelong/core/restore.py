"""The whole state of a learner: gathered, and filled in again or refused."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lifelong.core import growth
from lifelong.core.errors import StateMismatch
from lifelong.core.strategy import State
from lifelong.core.task import Growing, TaskSpec

if TYPE_CHECKING:
    from lifelong.core.learner import Learner


PARTS = {
    *("settings", "tasks", "current", "batches", "pending", "steps", "random", "model"),
    *("optimizer", "scheduler", "scaler", "strategies", "gradients"),
}
"""What a learner's state has."""


def gather(learner: Learner) -> State:
    """Everything that changes and outlives a step; tensors are referenced.

    Raises:
        OptimizerMismatch: the model has parameters to train that the optimizer does not know of.
    """
    growth.check_known(learner.model, learner.optimizer)
    return {
        "settings": _settings(learner),
        "tasks": [{"id": task.id, "classes": list(task.classes)} for task in learner.tasks],
        "current": learner.current,
        "batches": learner.batches,
        "pending": learner.pending,
        "steps": learner.steps,
        "random": learner.random.state_dict(),
        "model": dict(learner.model.state_dict()),
        "optimizer": None if learner.optimizer is None else learner.optimizer.state_dict(),
        "scheduler": None if learner.scheduler is None else learner.scheduler.state_dict(),
        "scaler": None if learner._scaler is None else learner._scaler.state_dict(),
        "strategies": [
            {"kind": type(strategy).__name__, "state": strategy.state_dict()}
            for strategy in learner.strategies
        ],
        "gradients": {name: p.grad for name, p in learner.parameters.items() if p.grad is not None}
        if learner.pending
        else {},
    }


def fill(learner: Learner, state: State) -> None:
    """Check a state in full, then take it over; a refused one changes nothing."""
    if not isinstance(state, dict):
        raise StateMismatch(
            f"a state is a dict, received an object of type {type(state).__name__}; give what "
            "state_dict() gave, or read a file: Learner.load(path, model, optimizer, strategies)"
        )
    learner.model.state_dict()  # a model that has none to give now says why; no state is at fault
    try:
        tasks = _check_frame(learner, state)
        with learner.random.kept():
            new_shapes = _check_model(learner, state, tasks)
        _check_optimizer(learner, state["optimizer"], new_shapes)
        _fill_strategies(learner, state["strategies"])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        if isinstance(error, StateMismatch):
            raise
        raise StateMismatch(f"the state is damaged: {type(error).__name__}: {error}") from error
    with learner.random.kept():
        for task in tasks[len(learner.tasks) :]:
            growth.grow(learner.model, task, learner.optimizer)
    learner.tasks = tasks
    learner.grown()
    learner.model.load_state_dict(state["model"])
    # The optimizer would go on in the state's own tensors, and the state could not be used again.
    if learner.optimizer is not None:
        learner.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    if learner.scheduler is not None:
        learner.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))
    if learner._scaler is not None:
        learner._scaler.load_state_dict(state["scaler"])
    learner.random.load_state_dict(state["random"])
    learner.current, learner.steps = state["current"], state["steps"]
    learner.batches, learner.pending = state["batches"], state["pending"]
    if learner.optimizer is not None:
        learner.optimizer.zero_grad()
    for name, gradient in state["gradients"].items():
        learner.parameters[name].grad = gradient.to(learner.device, copy=True)


def copied(value: Any) -> Any:
    """Copy a state, its tensors to the CPU.

    Example:
        >>> copied({"step": 1, "rows": [torch.ones(1)]})
        {'step': 1, 'rows': [tensor([1.])]}
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(part) for part in value)
    return value


def _settings(learner: Learner) -> dict[str, Any]:
    return {
        "precision": learner.precision,
        "accumulate": learner.accumulate,
        "clip": learner.clip,
        "optimizer": None if learner.optimizer is None else type(learner.optimizer).__name__,
        "scheduler": None if learner.scheduler is None else type(learner.scheduler).__name__,
    }


def _check_frame(learner: Learner, state: State) -> list[TaskSpec]:
    expected = PARTS
    if state.keys() != expected:
        missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
        raise StateMismatch(f"not a learner's state: missing {missing}, unknown {unknown}")
    for name, own in _settings(learner).items():
        saved = state["settings"].get(name)
        if saved != own:
            raise StateMismatch(
                f"the state was saved with {name}={saved!r}, this learner has {own!r}; "
                "make the learner with the same settings"
            )
    kinds = [part["kind"] for part in state["strategies"]]
    own_kinds = [type(strategy).__name__ for strategy in learner.strategies]
    if kinds != own_kinds:
        raise StateMismatch(f"the state has strategies {kinds}, this learner has {own_kinds}")
    tasks = [TaskSpec(task["id"], tuple(task["classes"])) for task in state["tasks"]]
    if tasks[: len(learner.tasks)] != learner.tasks:
        raise StateMismatch(
            f"this learner has begun tasks {[t.id for t in learner.tasks]}, which the state's "
            f"{[t.id for t in tasks]} do not begin with; load into a new learner"
        )
    _check_progress(learner, state, tasks)
    return tasks


def _check_progress(learner: Learner, state: State, tasks: list[TaskSpec]) -> None:
    """Check the parts that are filled in last, when there is no way back."""
    current = state["current"]
    counts = state["batches"], state["pending"], state["steps"]
    if current is not None and current not in [task.id for task in tasks]:
        raise StateMismatch(f"task {current!r} is open in the state, but was never begun there")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise StateMismatch(
            f"the state counts {counts} batches, those pending and steps; not whole numbers"
        )
    if state["pending"] >= learner.accumulate:
        raise StateMismatch(
            f"{state['pending']} batches wait for a step of {learner.accumulate} in the state"
        )
    for name, own in learner.random.state_dict().items():
        saved = state["random"].get(name, own)
        if not isinstance(saved, Tensor) or (saved.dtype, saved.shape) != (own.dtype, own.shape):
            raise StateMismatch(f"the state of the {name} generator is not one of this version")
    scheduler, scaler = learner.scheduler, learner._scaler
    for part, held in (("scheduler", scheduler), ("scaler", scaler)):
        expected = set() if held is None else set(held.state_dict())
        found = set(state[part] or {})
        if found != expected:
            raise StateMismatch(
                f"the state of the {part} has {sorted(found)}, expected {sorted(expected)}"
            )


def _check_model(learner: Learner, state: State, tasks: list[TaskSpec]) -> list[torch.Size]:
    """Check names, shapes and types against the model as it will be; shapes of what it gains."""
    model: nn.Module = learner.model
    new: dict[int, nn.Parameter] = {}
    pending = tasks[len(learner.tasks) :]
    if pending and any(isinstance(module, Growing) for module in model.modules()):
        copies: dict[int, Any] = {}
        model = copy.deepcopy(model, copies)
        for task in pending:
            new |= {id(p): p for p in growth.grow(model, task)}
        groups = [] if learner.optimizer is None else learner.optimizer.param_groups
        for held in (p for group in groups for p in group["params"]):
            new.pop(id(copies.get(id(held))), None)
    own = model.state_dict()
    _check_tensors("model", state["model"], own)
    _check_tensors("gradients", state["gradients"], dict(model.named_parameters()), complete=False)
    _check_importance(state["strategies"], model)
    return [p.shape for p in new.values()]


def _check_importance(strategies: list[State], model: nn.Module) -> None:
    """Check what strategies keep for each parameter, such as an importance, by the names alone."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for part in strategies:
        for name, kept in part["state"].items():
            if not isinstance(kept, dict) or not kept or not kept.keys() <= own.keys():
                continue
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape != own[key].shape:
                    raise StateMismatch(
                        f"{name} of {key!r} in the state of {part['kind']} has the shape "
                        f"{tuple(value.shape)}, the parameter has {tuple(own[key].shape)}"
                    )


def _check_tensors(part: str, saved: State, own: dict[str, Any], complete: bool = True) -> None:
    missing = sorted(own.keys() - saved.keys()) if complete else []
    unknown = sorted(saved.keys() - own.keys())
    if missing or unknown:
        raise StateMismatch(
            f"the state of the {part} does not fit: missing {missing[:5]}, unknown {unknown[:5]}; "
            "build the same model that was saved"
        )
    for name, value in saved.items():
        mine = own[name]
        if not isinstance(mine, Tensor):
            continue
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (mine.shape, mine.dtype):
            told = (
                f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            )
            raise StateMismatch(
                f"{part} {name!r} is {told} in the state, {mine.dtype} {tuple(mine.shape)} here"
            )


def _check_optimizer(learner: Learner, state: Any, new_shapes: list[torch.Size]) -> None:
    if learner.optimizer is None:
        if state is not None:
            raise StateMismatch(
                "the state is damaged: it has an optimizer's part, and no optimizer"
            )
        return
    shapes = [[p.shape for p in group["params"]] for group in learner.optimizer.param_groups]
    shapes[-1] += new_shapes
    saved = [len(group["params"]) for group in state["param_groups"]]
    if saved != [len(group) for group in shapes]:
        raise StateMismatch(
            f"the optimizer's groups hold {saved} parameters in the state, "
            f"{[len(group) for group in shapes]} here; group them as they were"
        )
    flat = [shape for group in shapes for shape in group]
    ids = [i for group in state["param_groups"] for i in group["params"]]
    for i, shape in zip(ids, flat, strict=True):
        for name, value in state["state"].get(i, {}).items():
            # Moments have the parameter's shape; step counts and factored ones broadcast to it.
            if isinstance(value, Tensor) and not _broadcasts(value.shape, shape):
                raise StateMismatch(
                    f"the optimizer's {name} of parameter {i} is {tuple(value.shape)} in the "
                    f"state, the parameter is {tuple(shape)} here"
                )


def _broadcasts(shape: torch.Size, onto: torch.Size) -> bool:
    if len(shape) > len(onto):
        return False
    return all(own in (1, other) for own, other in zip(shape[::-1], onto[::-1], strict=False))


def _fill_strategies(learner: Learner, states: list[State]) -> None:
    before = [copied(strategy.state_dict()) for strategy in learner.strategies]
    for index, (strategy, part) in enumerate(zip(learner.strategies, states, strict=True)):
        try:
            strategy.load_state_dict(part["state"])
        except Exception:
            for done, own in zip(learner.strategies[: index + 1], before, strict=False):
                done.load_state_dict(own)
            raise
