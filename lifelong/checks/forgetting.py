"""Whether a strategy keeps what was learned: a stream on which plain training forgets."""

from __future__ import annotations

from functools import cache

import torch
from torch.optim import SGD

from lifelong.checks.settings import (
    ALONE,
    Make,
    Setting,
    SmallTask,
    events_of,
    play,
    small_tasks,
)
from lifelong.checks.states import CheckFailed
from lifelong.core.learner import Learner

SEEDS = (0, 1, 2)
MARGIN = 0.03
"""How much more accurate than plain training a strategy must be, on average over the seeds."""


def beats_naive(make: Make) -> None:
    """Average accuracy over the tasks is better than that of plain training, with three seeds.

    Three tasks of two classes each come one after the other, once; in the end all six classes are
    to be told apart. Plain training is right on 59 % of new rows, the best strategies on 95 % or
    more. Choose strengths that fit a network of 16 hidden units and SGD with a learning rate of
    0.2; leave this check out for strategies that are no remedy against forgetting.
    """
    naive = sum(_naive(ALONE, seed) for seed in SEEDS) / len(SEEDS)
    own = sum(average_accuracy(ALONE, make, seed) for seed in SEEDS) / len(SEEDS)
    if not own >= naive + MARGIN:
        raise CheckFailed(
            "beats_naive",
            ALONE.name,
            f"average accuracy {own:.3f}, plain training has {naive:.3f}, over {len(SEEDS)} seeds",
            "try other strengths, or leave this check out (beats_naive=False)",
        )


def average_accuracy(setting: Setting, make: Make, seed: int) -> float:
    """Learn three tasks one after the other; average over them how many new rows are right."""
    tasks = small_tasks(batches=24, rows=16, seed=seed)
    model, _, strategies = setting.parts(make, seed)
    learner = Learner(model, SGD(model.parameters(), lr=0.2), strategies, seed=seed)
    play(learner, events_of([SmallTask(task.spec, task.batches[:16]) for task in tasks]))
    right = [
        (learner.predict(batch.x, task.spec.id).argmax(1).cpu() == batch.y).float().mean()
        for task in tasks
        for batch in task.batches[16:]
    ]
    return float(torch.stack(right).mean())


@cache  # the same for every strategy that is checked in this setting
def _naive(setting: Setting, seed: int) -> float:
    return average_accuracy(setting, lambda: [], seed)
