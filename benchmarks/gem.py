"""Time a step of GEM with 20 past tasks against A-GEM's, and against fine-tuning.

    python benchmarks/gem.py [--rounds 15] [--steps 10] [--tasks 20]

An MLP of two hidden layers on rows of 784 values, SGD, one thread, and tasks that contradict each
other, so that most steps have to be projected. The three alternate; a ratio is the median of those
of the rounds, in the processor time of this process. "All rows": both look at the whole memory in
each step. "Defaults": both as they come, with the same memory and the same number of rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

import torch
from torch.optim import SGD

from lifelong import AGEM, GEM, Batch, Learner, Strategy
from lifelong.nets import MLP

Step = Callable[[], None]
Case = tuple[str, int, int, Callable[[], Strategy], Callable[[], Strategy]]


def learner_with_past(strategies: list[Strategy], width: int, batch: int, tasks: int) -> Step:
    """Make a learner with tasks behind it; return a step of the next one."""
    torch.manual_seed(0)
    model = MLP(784, hidden=(width, width), outputs=10)
    learner = Learner(model, SGD(model.parameters(), lr=1e-3), strategies)
    for task in range(tasks):
        learner.begin_task(task)
        rows = [random_rows(batch, task, part) for part in range(1 + 600 // batch)]
        learner.observe(rows[0])
        learner.end_task(rows)
    learner.begin_task(tasks)
    new = random_rows(batch, tasks, 0)

    def step() -> None:
        learner.observe(new)

    return step


def random_rows(count: int, task: int, part: int) -> Batch:
    chance = torch.Generator().manual_seed(1000 * task + part)
    x = torch.rand(count, 784, generator=chance)
    return Batch.of(x, torch.randint(10, (count,), generator=chance), task)


def seconds(step: Step, steps: int) -> float:
    start = process_time()
    for _ in range(steps):
        step()
    return (process_time() - start) / steps


def cases() -> list[Case]:
    """List name, width, rows of a batch, GEM and A-GEM."""
    found: list[Case] = []
    for width, batch in ((100, 10), (400, 128)):
        for rows in (200, 500, 5120):
            makes = partial(GEM, rows, rows=rows), partial(AGEM, rows, rows=rows)
            found += [(f"all rows, MLP {width}, memory of {rows}", width, batch, *makes)]
        found += [(f"defaults, MLP {width}", width, batch, GEM, AGEM)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {arguments.tasks} past tasks")
    print(f"{'':40}{'GEM, ms':>9}{'/ A-GEM':>9}{'/ none':>9}")
    for name, width, batch, gem, agem in cases():
        made: list[list[Strategy]] = [[gem()], [agem()], []]
        steps = [learner_with_past(own, width, batch, arguments.tasks) for own in made]
        for step in steps:  # to warm up
            seconds(step, 3)
        times = [
            [seconds(step, arguments.steps) for step in steps] for _ in range(arguments.rounds)
        ]
        over = median(t[0] / t[1] for t in times), median(t[0] / t[2] for t in times)
        mine = median(t[0] for t in times)
        print(f"{name:40}{mine * 1e3:9.2f}{over[0]:9.2f}{over[1]:9.2f}", flush=True)


if __name__ == "__main__":
    main()
