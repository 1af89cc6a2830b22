"""Heads that are computed, against a linear classifier trained on all rows at once.

    LIFELONG_DATA=... python benchmarks/analytic.py [clinc150 | cifar10 | cost]

clinc150: 150 intents in 10 tasks, on the features of MiniLM as it comes; the valid split chooses
the learning rate of the linear classifier. cifar10: 10 classes in 5 tasks, `--rows` of each, on the
features of EfficientNet-lite0 from images scaled to 224; a tenth of the training rows chooses.
Features are computed once and kept in `--cache`. Every analytic head sees each row once, in order
of the tasks, 50 rows at a time, and its settings are its defaults; nothing is drawn but what the
ridge head projects on, by `--seeds`. Seconds are of learning from features, without the backbone.

cost: a step of each head against a step of fine-tuning the same small network, in turns in this
process; the median of the rounds' ratios, and how long a solution takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from lifelong import Analytic, Batch, Learner, TaskSpec
from lifelong.nets import (
    MLP,
    AnalyticHead,
    Classifier,
    EfficientNetLite0,
    GrowingHead,
    LDAHead,
    MeansHead,
    MiniLM,
    Pixels,
    RidgeHead,
)
from lifelong.streams import load
from lifelong.streams.clinc import clinc150_parts

Part = tuple[Tensor, Tensor]
HEADS: dict[str, Callable[[int, int], AnalyticHead]] = {
    "MeansHead": lambda features, _: MeansHead(features),
    "LDAHead": lambda features, _: LDAHead(features),
    "RidgeHead, 1000": lambda features, seed: RidgeHead(features, width=1000, seed=seed),
    "RidgeHead, 2000": lambda features, seed: RidgeHead(features, width=2000, seed=seed),
    "RidgeHead, 4000": lambda features, seed: RidgeHead(features, width=4000, seed=seed),
}


@torch.no_grad()
def embedded_clinc() -> dict[str, Part]:
    tokens, net = MiniLM.tokens(), MiniLM.pretrained().eval()
    found = {}
    for name, (texts, y) in clinc150_parts()[0].items():
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # little to fill up
        features = torch.empty(len(texts), net.features)
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            features[rows] = net(tokens.encode([texts[n] for n in rows]))
        found[name] = features, y
    return found


@torch.no_grad()
def embedded_cifar(count: int) -> dict[str, Part]:
    data = load("cifar10")
    front, net = Pixels(127 / 255, 128 / 255), EfficientNetLite0.pretrained(size=224).eval()
    train, _, test = data.parts(limit=count)
    found = {}
    for name, rows in (("train", train), ("test", test)):
        assert isinstance(rows.x, Tensor)
        found[name] = torch.cat([net(front(x)) for x in rows.x.split(32)]), rows.y  # type: ignore[no-untyped-call]
    x, y = found["train"]
    aside = torch.arange(len(y)) % 10 == 0
    found["train"], found["val"] = (x[~aside], y[~aside]), (x[aside], y[aside])
    return found


def accuracy(model: nn.Module, part: Part) -> float:
    with torch.no_grad():
        right: float = (model.eval()(part[0]).argmax(1) == part[1]).double().mean().item()
    return 100 * right


def joint(parts: dict[str, Part], rate: float, epochs: int, seed: int) -> tuple[nn.Module, float]:
    """Train a linear classifier on all rows, with the rate falling to 0."""
    (x, y), start = parts["train"], process_time()
    torch.manual_seed(seed)
    model = nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = Adam(model.parameters(), lr=rate)
    steps = epochs * -(-len(y) // 256)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(256):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
    return model, process_time() - start


def streamed(head: AnalyticHead, part: Part, tasks: int) -> tuple[nn.Module, float]:
    """Learn the tasks one after the other, each row once."""
    (x, y), start = part, process_time()
    model = Classifier(nn.Identity(), head)
    learner = Learner(model, None, [Analytic()])
    for task, classes in enumerate(torch.arange(int(y.max()) + 1).chunk(tasks)):
        learner.begin_task(TaskSpec(task, tuple(classes.tolist())))
        rows = torch.isin(y, classes).nonzero().flatten()
        batches = [Batch.of(x[part], y[part], task) for part in rows.split(50)]  # type: ignore[no-untyped-call]
        for batch in batches:
            learner.observe(batch)
        learner.end_task(batches)
    model.eval()
    return model, process_time() - start


def compare(
    parts: dict[str, Part], tasks: int, epochs: int, seeds: list[int], heads: list[str]
) -> None:
    features = parts["train"][0].shape[1]
    grid = {rate: joint(parts, rate, epochs, 0)[0] for rate in (0.01, 0.03, 0.1)}
    valid = {rate: accuracy(model, parts["val"]) for rate, model in grid.items()}
    best = max(valid, key=lambda rate: valid[rate])
    print("joint linear, valid:", {rate: round(value, 2) for rate, value in valid.items()})
    print(f"{'':24}{'valid, %':>10}{'test, %':>24}{'seconds':>9}{'kept':>12}")
    row("joint linear, all rows", [joint(parts, best, epochs, seed) for seed in seeds], parts, 0)
    for name in heads:
        make = HEADS[name]
        own = seeds if name.startswith("Ridge") else seeds[:1]
        made = [streamed(make(features, seed), parts["train"], tasks) for seed in own]
        head = made[0][0].head
        assert isinstance(head, AnalyticHead)
        row(name, made, parts, head.held_bytes)


def row(name: str, made: list[tuple[nn.Module, float]], parts: dict[str, Part], kept: int) -> None:
    valid = mean(accuracy(model, parts["val"]) for model, _ in made)
    tests = [accuracy(model, parts["test"]) for model, _ in made]
    spread = f"{mean(tests):.2f} ({min(tests):.2f} to {max(tests):.2f})"
    seconds = median(seconds for _, seconds in made)
    print(f"{name:24}{valid:10.2f}{spread:>24}{seconds:9.2f}{kept:12,}", flush=True)


def cost(rounds: int, steps: int) -> None:
    chance = torch.Generator().manual_seed(0)
    batch = Batch.of(torch.rand(16, 64, generator=chance), torch.arange(16) % 10)

    def learner(head: AnalyticHead | None) -> Learner:
        torch.manual_seed(0)
        backbone = MLP(64, hidden=(100, 100))
        if head is None:
            model = Classifier(backbone, GrowingHead(100))
            made = Learner(model, SGD(model.parameters(), lr=0.01))
        else:
            made = Learner(Classifier(backbone.requires_grad_(False), head), None, [Analytic()])
        made.begin_task(TaskSpec(0, tuple(range(10))))
        return made

    heads = {name: make(100, 0) for name, make in HEADS.items()}
    learners = [learner(None), *(learner(head) for head in heads.values())]
    times: list[list[float]] = []
    for _ in range(rounds + 1):
        times.append([])
        for each in learners:
            start = process_time()
            for _ in range(steps):
                each.observe(batch)
            times[-1].append(process_time() - start)
    print(f"a step of fine-tuning: {median(t[0] for t in times[1:]) / steps * 1e6:.0f} us")
    for place, (name, head) in enumerate(heads.items(), 1):
        ratio = median(t[place] / t[0] for t in times[1:])  # the first round warms up
        start = process_time()
        head.eval()
        spent = (process_time() - start) * 1e3
        print(
            f"{name:24} / fine-tuning {ratio:6.2f}, a solution {spent:7.1f} ms, "
            f"{head.held_bytes:,} bytes"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("clinc150", "cifar10", "cost"))
    parser.add_argument("--cache", type=Path, default=Path("features"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "cost":
        cost(given.rounds, given.steps)
        return
    name = given.what if given.what == "clinc150" else f"{given.what}-{given.rows}"
    path = given.cache / f"{name}.pt"
    if not path.exists():
        given.cache.mkdir(parents=True, exist_ok=True)
        start = process_time()
        found = embedded_clinc() if given.what == "clinc150" else embedded_cifar(given.rows)
        torch.save(found, path)
        print(f"features in {process_time() - start:.0f} s")
    parts = torch.load(path, weights_only=True)
    tasks = 10 if given.what == "clinc150" else 5
    compare(parts, tasks, given.epochs, given.seeds, given.heads)


if __name__ == "__main__":
    main()
