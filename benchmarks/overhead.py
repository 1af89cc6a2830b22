"""Time a learner's step against the same step written by hand.

    python benchmarks/overhead.py [--rounds 25] [--steps 40] [--device cuda]

An MLP 784-400-400-10 on batches of 128 rows, SGD, one thread. The compiled loops of
`lifelong[fast]`, if that is installed, are loaded before, as they are in a run that goes on. Each
figure is a median of ratios ours / by hand of rounds that alternate, in the processor time of this
process; on a GPU, where the rows and memories are, too, in the time until it is done.

What LwF costs by itself, a pass of the last model over the rows, is shown beside it: the same
loop by hand with that added. Where rows are known, their answers are on record (`LwF(record=n)`).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from lifelong import EWC, L2, MAS, SI, Batch, DERpp, Learner, LwF, Replay, Strategy, fused

ROWS = 128
ONLINE = 10


@dataclass(frozen=True)
class Case:
    name: str
    strategies: Callable[[str], list[Strategy]]
    """For rows on a device."""
    target: float | None
    """What the ratio is to be at most; None for what is compared itself."""
    new: int = ROWS
    by_hand: int = ROWS
    """How many rows the step by hand has: as many as the strategies make of the new ones."""


CASES = [
    Case("no strategy", lambda _: [], 1.05),
    Case("L2", lambda _: [L2(1e-3)], 1.15),
    Case("EWC", lambda _: [EWC(1.0)], 1.15),
    Case("MAS", lambda _: [MAS(1e-3)], 1.15),
    Case("SI", lambda _: [SI(1e-3)], 1.25),
    Case("LwF", lambda _: [LwF(1.0)], 1.5),
    Case("LwF by hand", lambda _: [], None),
    Case("LwF, rows known", lambda _: [LwF(1.0, record=1000)], 1.5),
    Case("Replay, b + b rows", lambda device: [Replay(500, device=device)], 1.08, by_hand=2 * ROWS),
    Case("DERpp, b + 2b rows", lambda device: [DERpp(500, device=device)], 1.10, by_hand=3 * ROWS),
    Case(
        "online, 10 + 10 rows",
        lambda device: [Replay(500, device=device)],
        1.5,
        new=ONLINE,
        by_hand=2 * ONLINE,
    ),
]


def network(device: str) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
    return nn.Sequential(*layers).to(device)


def data(rows: int, device: str) -> Batch:
    chance = torch.Generator().manual_seed(rows)
    x = torch.rand(rows, 784, generator=chance)
    batch = Batch.of(x, torch.randint(10, (rows,), generator=chance), key=torch.arange(rows))
    return batch.to(torch.device(device))


def step_by_hand(rows: int, device: str) -> Callable[[], None]:
    model, batch = network(device), data(rows, device)
    optimizer = SGD(model.parameters(), lr=0.05)
    x, y = batch.x, batch.y

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def lwf_by_hand(device: str) -> Callable[[], None]:
    """Make the step by hand that distils from a copy of the model, as it was at first."""
    model, batch = network(device), data(ROWS, device)
    teacher = copy.deepcopy(model).requires_grad_(False)
    optimizer = SGD(model.parameters(), lr=0.05)
    x, y = batch.x, batch.y
    assert isinstance(x, torch.Tensor)

    def step() -> None:
        taught = F.softmax(teacher(x) / 2, 1)
        output = model(x)
        distance = F.kl_div(F.log_softmax(output / 2, 1), taught, reduction="batchmean")
        loss = F.cross_entropy(output, y) + 4 * distance
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_of_learner(case: Case, device: str) -> Callable[[], None]:
    """Make a learner with one task behind it, so that importance, teacher and memory are there."""
    model, batch = network(device), data(case.new, device)
    learner = Learner(model, SGD(model.parameters(), lr=0.05), case.strategies(device))
    learner.begin_task(0)
    for _ in range(1 + 600 // case.new):
        learner.observe(batch)
    learner.end_task([batch])
    learner.begin_task(1)

    def step() -> None:
        learner.observe(batch)

    return step


def seconds(step: Callable[[], None], steps: int, device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        return perf_counter() - start
    start = process_time()
    for _ in range(steps):
        step()
    return process_time() - start


def measure(case: Case, rounds: int, steps: int, device: str = "cpu") -> tuple[float, float]:
    """Take the medians of the ratio and of the seconds of a step by hand."""
    own = lwf_by_hand(device) if case.target is None else step_of_learner(case, device)
    ours, by_hand = own, step_by_hand(case.by_hand, device)
    seconds(ours, 5, device), seconds(by_hand, 5, device)
    ratios, times = [], []
    for index in range(rounds):
        if index % 2:
            mine, theirs = seconds(ours, steps, device), seconds(by_hand, steps, device)
        else:
            theirs, mine = seconds(by_hand, steps, device), seconds(ours, steps, device)
        ratios.append(mine / theirs)
        times.append(theirs / steps)
    return median(ratios), median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fused.load()
    on, rounds = arguments.device, f"{arguments.rounds} rounds of {arguments.steps}"
    where = "one thread" if on == "cpu" else torch.cuda.get_device_name(on)
    print(f"torch {torch.__version__}, {where}, {rounds}")
    print(f"{'':22}{'by hand, ms':>12}{'ratio':>8}{'target':>8}  met")
    for case in CASES:
        ratio, time = measure(case, arguments.rounds, arguments.steps, on)
        told = ""
        if case.target is not None:
            told = f"{case.target:8.2f}  {'yes' if ratio <= case.target else 'no'}"
        print(f"{case.name:22}{time * 1e3:12.2f}{ratio:8.3f}{told}", flush=True)


if __name__ == "__main__":
    main()
