"""What generative replay adds to a step: each strategy against fine-tuning, in one process.

python benchmarks/generative.py [--steps N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from lifelong import DGR, Batch, FeatureReplay, Learner, MeRGAN, Replay, Strategy, TaskSpec
from lifelong.nets import MLP, Classifier, GrowingHead, Pixels

STRATEGIES: dict[str, Callable[[], list[Strategy]]] = {
    "fine-tune": lambda: [],
    "replay": lambda: [Replay(1000)],
    "dgr": lambda: [DGR(strict=False)],
    "dgr, at rest": lambda: [DGR(strict=False, tolerance=0.99)],
    "dgr, gan": lambda: [DGR("gan", strict=False)],
    "dgr, diffusion": lambda: [DGR("diffusion", strict=False)],
    "mergan": lambda: [MeRGAN(strict=False)],
    "feature-replay": lambda: [FeatureReplay()],
}


def batches(task: int, count: int) -> list[Batch]:
    """Noise of MNIST's shape."""
    chance = torch.Generator().manual_seed(task)
    made = []
    for _ in range(count):
        x = torch.randint(256, (128, 1, 28, 28), generator=chance, dtype=torch.uint8)
        y = 2 * task + torch.randint(2, (128,), generator=chance)
        made.append(Batch.of(x, y, task))
    return made


def begun(strategies: list[Strategy]) -> Learner:
    """A learner of the 784-400-400 network, in the middle of its second task."""
    torch.manual_seed(0)
    net = Classifier(MLP(784), GrowingHead(400), Pixels())
    learner = Learner(net, torch.optim.Adam(net.parameters(), lr=1e-3, fused=True), strategies)
    learner.begin_task(TaskSpec(0, (0, 1)))
    for batch in batches(0, 10):
        learner.observe(batch)
    learner.end_task(batches(0, 10))
    learner.begin_task(TaskSpec(1, (2, 3)))
    return learner


def main() -> None:
    """Take turns, one step each, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    learners = {name: begun(make()) for name, make in STRATEGIES.items()}
    times: dict[str, list[float]] = {name: [] for name in learners}
    for batch in batches(1, steps):
        for name, learner in learners.items():
            start = time.perf_counter()
            learner.observe(batch)
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["fine-tune"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:15} {median * 1e3:6.1f} ms a step, x{median / base:.2f}")


if __name__ == "__main__":
    main()
