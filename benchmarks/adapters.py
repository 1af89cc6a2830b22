"""Time a batch that mixes 8 tasks' adapters against one of a single task; the cost of each method.

    python benchmarks/adapters.py [--rounds 10]

Steps of a learner (forward, backward, SGD) with LoRA of rank 8 and bottlenecks of rank 16, on an
MLP 784-400-400 with batches of 128 and a transformer of 2 layers and width 128 on 32 sequences of
32 tokens. One thread, processor time; each figure is a median of ratios of rounds that alternate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch import Tensor, nn
from torch.optim import SGD

from lifelong import Batch, InfLoRA, Learner, Orthogonal, Strategy, TaskSpec
from lifelong.nets import (
    MLP,
    Classifier,
    GrowingHead,
    Prompted,
    Transformer,
    add_bottlenecks,
    add_lora,
)

TASKS = 8
TARGET = 1.5


def mlp() -> Classifier:
    return Classifier(MLP(784), GrowingHead(400))


def transformer() -> Classifier:
    return Classifier(Transformer(tokens=1000, width=128, heads=4), GrowingHead(128))


def rows_of(make: Callable[[], nn.Module]) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    if make is mlp:
        return torch.rand(128, 784, generator=chance)
    return torch.randint(1000, (32, 32), generator=chance)


def step_of(
    model: nn.Module, x: Tensor, task: Tensor, strategies: list[Strategy]
) -> Callable[[], object]:
    learner = Learner(model, SGD(model.parameters(), lr=0.01), strategies)
    batch = Batch.of(x, torch.arange(len(x)) % 10, task)
    for id in range(TASKS):
        learner.begin_task(TaskSpec(id, tuple(range(10))))
        learner.end_task([batch])
    learner.begin_task(TaskSpec(TASKS, tuple(range(10))))
    return lambda: learner.observe(batch)


def ratio(one: Callable[[], object], other: Callable[[], object], rounds: int) -> float:
    """How much longer one takes than the other."""
    ratios = []
    for number in range(rounds + 1):
        spent = []
        for step in (one, other):
            start = process_time()
            for _ in range(5):
                step()
            spent.append(process_time() - start)
        if number:  # the first round warms up
            ratios.append(spent[0] / spent[1])
    return median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kinds: dict[str, Callable[..., nn.Module]] = {"LoRA": add_lora, "bottleneck": add_bottlenecks}
    for make in (mlp, transformer):
        x = rows_of(make)
        single = torch.zeros(len(x), dtype=torch.int64)
        mixed = torch.arange(len(x)) % TASKS
        plain = step_of(make(), x, single, [])
        for name, add in kinds.items():
            one = step_of(add(make(), sets="task"), x, single, [])
            many = step_of(add(make(), sets="task"), x, mixed, [])
            found = ratio(many, one, rounds)
            cost = ratio(one, plain, rounds)
            kept = "as it should" if found <= TARGET else f"more than {TARGET}"
            print(f"{make.__name__}, {name}: {TASKS} tasks x{found:.2f} of one ({kept}); ", end="")
            print(f"one x{cost:.2f} of fine-tuning")
        summed: dict[str, list[Strategy]] = {"O-LoRA": [Orthogonal()], "InfLoRA": [InfLoRA()]}
        for name, strategies in summed.items():
            cost = ratio(
                step_of(add_lora(make(), sets="summed"), x, single, strategies), plain, rounds
            )
            print(f"{make.__name__}, {name} after {TASKS} tasks: x{cost:.2f} of fine-tuning")
    net = transformer()
    assert isinstance(net.backbone, Transformer)
    net = Classifier(Prompted(net.backbone), net.head)
    x = rows_of(transformer)
    single = torch.zeros(len(x), dtype=torch.int64)
    prompts = step_of(net, x, single, [Orthogonal(0.01)])
    cost = ratio(prompts, step_of(transformer(), x, single, []), rounds)
    print(f"transformer, CODA-Prompt after {TASKS} tasks: x{cost:.2f} of fine-tuning")


if __name__ == "__main__":
    main()
