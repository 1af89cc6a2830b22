"""Time a step of methods that grow or mask the network against fine-tuning, and count bytes.

    python benchmarks/structure.py [--rounds 10] [--steps 10] [--past 2] [--width 400] [--batch 128]

An MLP of two hidden layers on rows of 784 values, outputs for each task, SGD, one thread, some
tasks behind it. All alternate; a ratio is the median of those of the rounds, in the processor time
of this process. Bytes are those of the model's state and of the strategies' after the tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch.optim import SGD

from lifelong import Batch, Learner, TaskSpec
from lifelong.bench import recipes
from lifelong.metrics.cost import state_bytes
from lifelong.nets import MLP, MultiHead, TaskClassifier

NAMES = ("fine-tune", "progressive", "packnet", "hat", "supsup", "experts")


def learner_with_past(name: str, width: int, batch: int, past: int) -> Learner:
    """Make a learner with tasks behind it and one open."""
    torch.manual_seed(0)
    model = recipes.network(name, TaskClassifier(MLP(784, hidden=(width, width)), MultiHead(width)))
    optimizer = SGD(model.parameters(), lr=1e-3)
    learner = Learner(model, optimizer, recipes.make(name, {}))
    for task in range(past):
        rows = [random_rows(batch, task, part) for part in range(3)]
        learner.begin_task(TaskSpec(task, classes=(2 * task, 2 * task + 1)))
        learner.observe(rows[0])
        learner.end_task(rows)
    learner.begin_task(TaskSpec(past, classes=(2 * past, 2 * past + 1)))
    return learner


def random_rows(count: int, task: int, part: int) -> Batch:
    chance = torch.Generator().manual_seed(1000 * task + part)
    x = torch.rand(count, 784, generator=chance) + 10 * task
    return Batch.of(x, 2 * task + torch.randint(2, (count,), generator=chance), task)


def seconds(step: Callable[[], object], steps: int) -> float:
    start = process_time()
    for _ in range(steps):
        step()
    return (process_time() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("rounds", 10), ("steps", 10), ("past", 2), ("width", 400), ("batch", 128),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    learners = {
        name: learner_with_past(name, options.width, options.batch, options.past) for name in NAMES
    }
    new = random_rows(options.batch, options.past, 0)
    for learner in learners.values():
        learner.observe(new)
    rounds = [
        {name: seconds(lambda own=own: own.observe(new), options.steps)  # type: ignore[misc]
         for name, own in learners.items()}
        for _ in range(options.rounds)
    ]  # fmt: skip
    print(f"{'':12} {'ms a step':>10} {'x fine-tuning':>14} {'MB of model':>12} {'trainable':>10}")
    for name, learner in learners.items():
        ratio = median(each[name] / each["fine-tune"] for each in rounds)
        spent = 1000 * median(each[name] for each in rounds)
        held = state_bytes([dict(learner.model.state_dict())]) / 1e6
        learning = sum(p.numel() for p in learner.parameters.values())
        print(f"{name:12} {spent:10.2f} {ratio:14.2f} {held:12.2f} {learning:10}")


if __name__ == "__main__":
    main()
