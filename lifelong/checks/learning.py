"""What a strategy promises while it learns."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from lifelong.checks.states import CheckFailed, difference
from lifelong.core.batch import Batch
from lifelong.core.errors import LifelongError
from lifelong.core.learner import Learner


def resumes_bit_for_bit(make: Make) -> None:
    """A learner that was saved and loaded goes on exactly as one that never stopped.

    In every setting a run is saved in the middle of tasks, between two batches of one step where
    gradients accumulate, and after a task; each time a new learner is loaded from the file, goes
    on to the end, and must then have the same state, bit for bit. Saving must not alter the run.
    """
    for setting in SETTINGS:
        events = events_of(small_tasks())
        straight = play(setting.learner(make), events).state_dict()
        with tempfile.TemporaryDirectory() as folder:
            _saved_and_resumed(make, setting, events, straight, Path(folder))


def _saved_and_resumed(
    make: Make, setting: Setting, events: list[Event], straight: dict[str, Any], folder: Path
) -> None:
    points = (2, 8, 12, 15)  # in task 0, in task 1, after task 1, in task 2
    learner = setting.learner(make)
    for point, event in enumerate(events):
        if point in points:
            learner.save(folder / f"{point}.safetensors")
        event(learner)
    _expect_same(
        learner.state_dict(),
        straight,
        "resumes_bit_for_bit",
        setting,
        "a run that was saved on its way ends otherwise",
        "state_dict() must not change anything",
    )
    for point in points:
        resumed = Learner.load(
            folder / f"{point}.safetensors",
            *setting.parts(make, seed=1),
            seed=1,
            **setting.arguments(),
        )
        _expect_same(
            play(resumed, events[point:]).state_dict(),
            straight,
            "resumes_bit_for_bit",
            setting,
            f"resumed after {point} of {len(events)} calls, the end is another",
            "name every attribute that outlives a step in `state`",
        )


def leaves_inputs_alone(make: Make) -> None:
    """Batches are afterwards what they were before, and `predict` changes nothing."""
    for setting in SETTINGS:
        learner = setting.learner(make)
        tasks = small_tasks()
        given = [batch for task in tasks for batch in task.batches]
        before = [_copy(batch) for batch in given]
        play(learner, events_of(tasks))
        for batch, copy in zip(given, before, strict=True):
            _expect_same(
                dict(batch.columns()),
                dict(copy.columns()),
                "leaves_inputs_alone",
                setting,
                "a batch that was given has been changed",
                "copy what you change, or replace() the batch",
            )
        state = learner.state_dict()
        learner.predict(given[0].x, 0)
        _expect_same(
            learner.state_dict(),
            state,
            "leaves_inputs_alone",
            setting,
            "predict has changed the state",
            "let prediction leave everything as it is",
        )


def undoes_a_failing_step(make: Make) -> None:
    """A batch with NaN, or with a label the model has no output for, raises and changes nothing.

    Neither the state, bit for bit, nor how learning goes on afterwards.
    """
    events = events_of(small_tasks())
    for setting in SETTINGS:
        straight = play(setting.learner(make), events).state_dict()
        learner = play(setting.learner(make), events[:8])
        good = small_tasks(seed=1, tasks=2)[1].batches[0]
        x, y = good.x.clone() if isinstance(good.x, Tensor) else torch.zeros(0), good.y.clone()
        x[3, 1], y[5] = torch.nan, 99
        for bad, kind in ((replace(good, x=x), "NaN"), (replace(good, y=y), "an unknown label")):
            state = learner.state_dict()
            try:
                learner.observe(bad)
            except LifelongError:
                pass
            else:
                raise CheckFailed(
                    "undoes_a_failing_step",
                    setting.name,
                    f"a batch with {kind} is learned from",
                    "let the loss and the penalty show what is not finite",
                )
            _expect_same(
                learner.state_dict(),
                state,
                "undoes_a_failing_step",
                setting,
                f"a batch with {kind} leaves something behind",
                "change what `state` names in project and after_step alone, "
                "and draw from self.generator",
            )
        _expect_same(
            play(learner, events[8:]).state_dict(),
            straight,
            "undoes_a_failing_step",
            setting,
            "learning goes on otherwise after a failed step",
            "what extend keeps for penalty must be set anew by every extend",
        )


def draws_no_global_randomness(make: Make) -> None:
    """Random numbers come from `self.generator`, so that runs can be repeated.

    The global random states of torch, numpy and Python stay, results do not depend on them, and
    the learner's own sequence, which dropout draws from, does not advance.
    """
    for setting in (ALONE, GROWING):
        ends: list[dict[str, Any]] = []
        for seed in (1, 2):
            with _global_seed(seed):
                before = _global_states()
                learner = setting.learner(make)
                for event in events_of(small_tasks()):
                    own = learner.random.state_dict() if learner.current is not None else None
                    event(learner)
                    moved = difference(_global_states(), before, "random")
                    if moved is None and own is not None:
                        moved = difference(learner.random.state_dict(), own, "the learner's")
                    if moved is not None:
                        raise CheckFailed(
                            "draws_no_global_randomness",
                            setting.name,
                            f"somebody else's random numbers were used: {moved}",
                            "draw with generator=self.generator",
                        )
                ends.append(learner.state_dict())
        _expect_same(
            ends[0],
            ends[1],
            "draws_no_global_randomness",
            setting,
            "the result depends on the global seeds",
            "draw with generator=self.generator",
        )


def keeps_to_itself(make: Make) -> None:
    """Equal seeds give equal learners, instances share nothing, and one serves one learner."""
    events = events_of(small_tasks())
    for setting in (ALONE, GROWING):
        first, second = setting.learner(make), setting.learner(make)
        play(second, events[:8])
        untouched = second.state_dict()
        play(first, events)
        _expect_same(
            second.state_dict(),
            untouched,
            "keeps_to_itself",
            setting,
            "one instance changes with another",
            "make lists, dicts and tensors in __init__, not in the class",
        )
        _expect_same(
            play(second, events[8:]).state_dict(),
            first.state_dict(),
            "keeps_to_itself",
            setting,
            "two learners with the same seed end differently",
            "draw with generator=self.generator, and share nothing between instances",
        )
    model, optimizer, strategies = ALONE.parts(make)
    Learner(model, optimizer, strategies)
    model, optimizer, _ = ALONE.parts(make)
    try:
        Learner(model, optimizer, strategies)
    except ValueError:
        return
    raise CheckFailed(
        "keeps_to_itself",
        ALONE.name,
        "one instance is taken by two learners",
        "an attach() of your own must call super().attach(device, seed)",
    )


def _expect_same(
    one: Any, other: Any, check: str, setting: Setting, found: str, advice: str
) -> None:
    place = difference(one, other)
    if place is not None:
        raise CheckFailed(check, setting.name, f"{found}: {place}", advice)


def _copy(batch: Batch) -> Batch:
    x = batch.x.clone() if isinstance(batch.x, Tensor) else batch.x
    return replace(batch, x=x, y=batch.y.clone(), task=batch.task.clone(), key=batch.key.clone())


def _global_states() -> dict[str, Any]:
    name, words, *rest = np.random.get_state()  # noqa: NPY002 - it is this one that must stay
    return {
        "torch": torch.get_rng_state(),
        "torch, GPUs": _gpu_states(),
        "numpy": [name, torch.from_numpy(np.array(words)), *rest],
        "python": random.getstate(),
    }


def _gpu_states() -> list[Tensor]:
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if in_use else []


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global random states of torch, numpy and Python; afterwards they are as before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    on_gpus = _gpu_states()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        torch.cuda.set_rng_state_all(on_gpus)
