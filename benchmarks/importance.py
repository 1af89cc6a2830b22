"""What importance costs: the Fisher beside one forward and backward pass over the same rows.

python benchmarks/importance.py [--rounds 9] [--all]

Every figure is the median of paired runs, side by side in one process on one thread, each pair in
alternating order. `--all` adds the other kinds of importance, and `vmap(grad)` over all parameters.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifelong.core.batch import Batch
from lifelong.core.importance import fisher, output_sensitivity
from lifelong.core.row_by_row import vmapped_row_powers


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


def reduced_resnet18() -> nn.Module:
    """Lopez-Paz & Ranzato's 2017 (arXiv:1706.08840): ResNet-18 of 20 to 160 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 20, 3, 1, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU()]
    inputs = 20
    for width, stride in ((20, 1), (40, 2), (80, 2), (160, 2)):
        layers += [Block(inputs, width, stride), Block(width, width, 1)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10))


def mlp() -> nn.Module:
    hidden = [nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(400, 10))


class Scored(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        return (F.cross_entropy(self.model(batch.x), batch.y, reduction="none"),)


def passes(model: nn.Module, batches: list[Batch]) -> None:
    for batch in batches:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]


def vmapped(model: nn.Module, batches: list[Batch]) -> None:
    scored = Scored(model)
    for batch in batches:
        vmapped_row_powers(scored, dict(scored.named_parameters()), batch, 2)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[float]:
    """Give the medians of our seconds, their seconds and the ratio, after one unmeasured pair."""
    ours()
    theirs()
    pairs = []
    for i in range(rounds):
        if i % 2:
            mine, other = seconds(ours), seconds(theirs)
        else:
            other, mine = seconds(theirs), seconds(ours)
        pairs.append((mine, other, mine / other))
    return [statistics.median(column) for column in zip(*pairs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--all", action="store_true", help="other kinds and vmap(grad) too")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread")
    cases = [
        ("mlp 784-400-400-10", mlp(), (784,), 1024, 128, 2.0),
        ("mlp 784-400-400-10", mlp(), (784,), 1024, 1024, 2.0),
        ("reduced ResNet-18", reduced_resnet18(), (3, 32, 32), 64, 32, 5.0),
    ]
    for name, model, shape, rows, size, limit in cases:
        x, y = torch.randn(rows, *shape), torch.randint(10, (rows,))
        parts = [slice(start, start + size) for start in range(0, rows, size)]
        batches = [Batch.of(x[part], y[part]) for part in parts]
        print(f"{name}, {rows} rows in batches of {size}")
        compare(model.eval(), batches, limit, wanted.rounds, wanted.all)


def compare(model: nn.Module, batches: list[Batch], limit: float, rounds: int, every: bool) -> None:
    random = torch.Generator().manual_seed(0)
    kinds: dict[str, Callable[[], object]] = {"fisher": lambda: fisher(model, batches)}
    if every:
        kinds |= {
            "fisher, sampled": lambda: fisher(model, batches, kind="sampled", generator=random),
            "fisher, true": lambda: fisher(model, batches, kind="true"),
            "output_sensitivity": lambda: output_sensitivity(model, batches),
            "vmap(grad)": lambda: vmapped(model, batches),
        }
    for kind, run in kinds.items():
        mine, other, ratio = paired(run, lambda: passes(model, batches), rounds)
        bound = f" (at most {limit})" if kind == "fisher" else ""
        print(
            f"  {kind}: {mine * 1e3:.1f} ms, forward and backward: {other * 1e3:.1f} ms, "
            f"ratio {ratio:.2f}{bound}",
            flush=True,
        )


if __name__ == "__main__":
    main()
