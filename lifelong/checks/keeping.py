"""What a strategy promises about what it keeps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from lifelong.checks.settings import (
    ALONE,
    GROWING,
    SETTINGS,
    Event,
    Make,
    Setting,
    events_of,
    play,
    small_tasks,
)
from lifelong.checks.states import (
    CheckFailed,
    difference,
    leaves,
    odd_part,
    size,
    strategies_state,
    trace,
)
from lifelong.core.errors import StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy, acts_at

MOMENTS = ("extend", "penalty", "project", "after_step", "consolidate")
"""When a strategy is called."""
A_TASK = 128
"""Bytes that a strategy's state may grow by with each task: its id, its classes, a count."""


def makes_strategies(make: Make) -> None:
    """Strategies are made, and `state` names attributes that they have.

    A strategy may have them from its constructor on, or from when a learner takes it.
    """
    for strategy in ALONE.learner(make).strategies:
        name = type(strategy).__name__
        names: object = strategy.state
        if isinstance(names, str):
            raise CheckFailed(
                "makes_strategies",
                ALONE.name,
                f"the state of {name} is the string {names!r}",
                f"make it a tuple: state = ({names!r},)",
            )
        own = [name for name in vars(type(strategy)) if _is_called(type(strategy), name)]
        if own and not any(acts_at(strategy, moment) for moment in MOMENTS):
            raise CheckFailed(
                "makes_strategies",
                ALONE.name,
                f"{name} has {', '.join(own)}, which nothing calls, and acts at no moment",
                f"name its methods as those of Strategy: {', '.join(MOMENTS)}",
            )
        for attribute in strategy.state:
            if not hasattr(strategy, attribute):
                near = get_close_matches(attribute, vars(strategy), n=1)
                raise CheckFailed(
                    "makes_strategies",
                    ALONE.name,
                    f"the state of {name} names {attribute!r}, which it does not have",
                    f"did you mean {near[0]!r}?" if near else "set it in __init__",
                )


def _is_called(kind: type, name: str) -> bool:
    """Tell whether it is a public method that `Strategy` does not have."""
    return not (name.startswith("_") or hasattr(Strategy, name)) and callable(getattr(kind, name))


def stays_bounded(make: Make) -> None:
    """The state stops growing: more steps and more tasks of the same kind take no more room.

    After 6 tasks of 384 rows, a seventh of 24 steps is compared. A memory of past rows must be
    full by then, so make it of at most 2000 rows. A task may add a few numbers (`A_TASK` bytes),
    its steps after the first fewer (half as many).
    """
    learner = ALONE.learner(make)
    sizes: list[list[int]] = [[], []]
    phases = (small_tasks(6, batches=3, rows=128), small_tasks(1, batches=24, rows=8, first=6))
    for phase, tasks in enumerate(phases):
        for event in events_of(tasks):
            event(learner)
            sizes[phase].append(size(strategies_state(learner)))
    before, peak = max(sizes[0]), max(sizes[1])
    _, first, *_, last, _ = sizes[1]  # it begins, its steps, it ends
    if peak > before + A_TASK or last > first + A_TASK // 2:
        raise CheckFailed(
            "stays_bounded",
            ALONE.name,
            f"the state of {min(before, first)} bytes grew to {peak} within one more task",
            "bound what is kept, or merge the terms of all tasks into one",
        )


def forgets_rows(make: Make) -> None:
    """After `forget(keys)` neither those ids nor those rows' values are anywhere in the state.

    Ids that nobody has change nothing, and learning goes on. `forget` says how many
    entries it has erased.
    """
    for setting in (ALONE, GROWING):
        tasks = small_tasks()
        events = events_of(tasks)
        learner = play(setting.learner(make), events[:9])
        state = learner.state_dict()
        learner.forget([5, 10**15])
        changed = difference(learner.state_dict(), state)
        if changed is not None:
            raise CheckFailed(
                "forgets_rows",
                setting.name,
                f"forgetting ids that nobody has changes {changed}",
                "drop the rows with the ids given and nothing else",
            )
        rows = [batch for task in tasks[:2] for batch in task.batches]
        keys = torch.cat([batch.key[::2] for batch in rows])
        values = torch.cat([batch.x[::2] for batch in rows if isinstance(batch.x, Tensor)])
        _counts(setting, learner, state, keys)
        found = trace(strategies_state(learner), keys, values)
        if found is not None:
            raise CheckFailed(
                "forgets_rows",
                setting.name,
                f"after forget(keys) {found}",
                "drop the rows with these ids in forget(), and overwrite where they lay",
            )
        play(learner, events[9:])


def _counts(setting: Setting, learner: Learner, state: State, keys: Tensor) -> None:
    """Forget rows, and once more: if that changes the state, it says so, and then nothing."""
    said = learner.forget(keys)
    changed = difference(learner.state_dict(), state)
    if changed is not None and not sum(said.values()):
        raise CheckFailed(
            "forgets_rows",
            setting.name,
            f"forget(keys) changes {changed} and counts no entries",
            "return from forget() how many entries were erased",
        )
    if again := sum(learner.forget(keys).values()):
        raise CheckFailed(
            "forgets_rows",
            setting.name,
            f"forgetting the same rows once more counts {again} of them",
            "return from forget() how many entries were erased, not how many ids were given",
        )


def keeps_plain_state(make: Make) -> None:
    """The state is tensors, numbers, strings, None, lists and dicts, and no code is pickled.

    So `torch.load(weights_only=True)` reads it.
    """
    for setting in SETTINGS:
        learner = play(setting.learner(make), events_of(small_tasks())[:9])
        odd = odd_part(strategies_state(learner))
        if odd is not None:
            raise CheckFailed(
                "keeps_plain_state",
                setting.name,
                f"the state holds {odd}",
                "keep tensors, numbers, strings, None, lists and dicts in what `state` names",
            )
        state, file = learner.state_dict(), io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        changed = difference(torch.load(file, weights_only=True), state)
        if changed is not None:
            raise CheckFailed(
                "keeps_plain_state", setting.name, f"loaded again, {changed}", "keep it plain"
            )


def refuses_other_states(make: Make) -> None:
    """A state with a missing or an unknown key is refused, and changes nothing.

    Tensors of another shape are refused as well; those of strategies, which do not know the
    model, when they are loaded or when they are next used.
    """
    for setting in (ALONE, GROWING):
        events = events_of(small_tasks())
        state = play(setting.learner(make), events[:8]).state_dict()
        learner = play(setting.learner(make), events[:4])
        before = learner.state_dict()
        for what, damaged in _damaged(state):
            _expect_refusal(learner, damaged, what, setting)
            changed = difference(learner.state_dict(), before)
            if changed is not None:
                raise CheckFailed(
                    "refuses_other_states",
                    setting.name,
                    f"a refused state ({what}) leaves {changed} behind",
                    "check everything in load_state_dict before taking anything over",
                )
    events = events_of(small_tasks())
    state = play(ALONE.learner(make), events[:8]).state_dict()
    for what, damaged in _misshaped(state):
        _expect_refusal_in_time(ALONE.learner(make), damaged, what, events[8:])


def _expect_refusal(learner: Learner, damaged: dict[str, Any], what: str, setting: Setting) -> None:
    try:
        learner.load_state_dict(damaged)
    except StateMismatch:
        return
    except Exception as error:
        raise CheckFailed(
            "refuses_other_states",
            setting.name,
            f"{what} is refused with {type(error).__name__}: {error}",
            "raise StateMismatch",
        ) from error
    raise CheckFailed(
        "refuses_other_states",
        setting.name,
        f"{what} is taken",
        "compare the keys in load_state_dict, as Strategy's own does, and raise StateMismatch",
    )


def _expect_refusal_in_time(
    learner: Learner, damaged: dict[str, Any], what: str, events: list[Event]
) -> None:
    try:
        learner.load_state_dict(damaged)
    except Exception:
        return
    try:
        play(learner, events)
    except Exception:
        return
    raise CheckFailed(
        "refuses_other_states",
        ALONE.name,
        f"{what} is taken, and learned with",
        "compare the shapes in load_state_dict, and raise StateMismatch",
    )


def _damaged(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make states with one key too few or too many, or a tensor of the model misshaped."""
    yield "a state without 'steps'", _without(state, "steps")
    yield "a state with the unknown key 'more'", {**state, "more": 1}
    name, weight = next(iter(state["model"].items()))
    for what, model in (
        (f"a model without {name!r}", _without(state["model"], name)),
        (f"a model with a longer {name!r}", {**state["model"], name: _longer(weight)}),
    ):
        yield what, {**state, "model": model}
    for index, part in enumerate(state["strategies"]):
        kind, own = part["kind"], part["state"]
        for key in own:
            damaged = {**part, "state": _without(own, key)}
            yield f"a state of {kind} without {key!r}", _with_part(state, index, damaged)
        more = {**part, "state": {**own, "more": 1}}
        yield f"a state of {kind} with the unknown key 'more'", _with_part(state, index, more)


def _misshaped(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make states of which one tensor of a strategy has one row more."""
    for index, part in enumerate(state["strategies"]):
        for path, leaf in leaves(part["state"], ""):
            if isinstance(leaf, Tensor) and leaf.ndim:
                damaged = {**part, "state": _with_leaf(part["state"], path, _longer(leaf))}
                told = f"{path.strip('/')} of {part['kind']} with one row more"
                yield told, _with_part(state, index, damaged)


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: part for other, part in state.items() if other != name}


def _with_part(state: dict[str, Any], index: int, part: dict[str, Any]) -> dict[str, Any]:
    strategies = list(state["strategies"])
    strategies[index] = part
    return {**state, "strategies": strategies}


def _with_leaf(state: Any, wanted: str, value: Tensor, path: str = "") -> Any:
    if path == wanted:
        return value
    if isinstance(state, dict):
        return {k: _with_leaf(part, wanted, value, f"{path}/{k}") for k, part in state.items()}
    if isinstance(state, list):
        return [_with_leaf(part, wanted, value, f"{path}/{i}") for i, part in enumerate(state)]
    return state


def _longer(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, torch.zeros_like(tensor[:1])))
