"""Accuracy against memory, at equal bytes: which rows to keep, and in what form.

    python benchmarks/frontier.py --data digits                 minutes
    python benchmarks/frontier.py --data fashion                hours on one core
    python benchmarks/frontier.py --data cifar10 --seeds 0,1,2  hours; needs the images

Every method gets the same bytes for all columns of its rows: inputs, labels, tasks, ids, and what
it adds (stored outputs, ranks, hashes). Settings are the library's defaults; the same suite, model,
optimizer and order of batches for all. The trunk of the latents learns the first task's rows and is
then frozen; it is a part of the model and not counted. Accuracy is the mean over all tasks after
the last, on test rows (with --on valid: on a tenth of the training rows, kept apart, to choose
settings by). One thread.

Writes OUT/frontier-DATA.json after every run, and goes on from there when it is called again;
draws OUT/frontier-DATA.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from lifelong import DERpp, Latents, Learner, Replay, Strategy
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.evaluate import evaluate
from lifelong.bench.job import versions
from lifelong.bench.plots import write_curves
from lifelong.bench.results import write_atomic
from lifelong.bench.suites import resolve
from lifelong.core.errors import BudgetTooSmall
from lifelong.nets import MLP, Classifier, LatentModel
from lifelong.streams import Stream

SUITES = {
    "digits": ("digits", ["5KB", "10KB", "40KB"]),  # all rows of the digits take 126 KB
    "fashion": ("split-fashion-mnist", ["0.2MB", "1MB", "5MB"]),
    "cifar10": ("split-cifar10-small", ["0.2MB", "1MB", "5MB"]),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "replay": ("replay", {}),
    "replay, balanced": ("replay", {"policy": "balanced"}),
    "replay, jpeg": ("replay", {"policy": "balanced", "store": "jpeg"}),
    "exemplars, herding": ("exemplars", {"select": "herding"}),
    "exemplars, k-center": ("exemplars", {"select": "k-center"}),
    "prioritized": ("prioritized", {}),
    "clean replay": ("clean-replay", {"policy": "balanced"}),
    "der++": ("der++", {"policy": "balanced"}),
}
LATENT = {
    "latents": lambda size: [Latents(), Replay(size, policy="balanced")],
    "latents, int8": lambda size: [Latents(), Replay(size, policy="balanced", store="int8")],
    "latents, int8, der++": lambda size: [
        Latents(),
        DERpp(size, policy="balanced", store="int8"),
    ],
}


def config_of(suite: str, name: str, size: str, seed: int, on: str) -> dict[str, Any]:
    strategy, settings = METHODS.get(name, ("fine-tune", {}))
    given = {f"{strategy}.{key}": value for key, value in settings.items()}
    if strategy != "fine-tune":
        given[f"{strategy}.capacity"] = size
    if on == "valid":
        given["validation"] = 0.1
    return {**resolve(suite, strategy, given), "seed": seed}


def latent_learner(config: dict[str, Any], stream: Stream, strategies: list[Strategy]) -> Learner:
    """Let a model learn the first task, freeze all but its head, and put a new part behind it."""
    first, task = learner_of(config, stream), stream.tasks[0]
    first.begin_task(task)
    for batch in task:
        first.observe(batch)
    learned = first.model
    assert isinstance(learned, Classifier)
    features, outputs = int(learned.backbone.features), int(learned.head.out_features)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        rest = Classifier(
            MLP(features, hidden=(config["width"],)), nn.Linear(config["width"], outputs)
        )
    model = LatentModel(nn.Sequential(learned.front, learned.backbone), rest)
    make: type[Optimizer] = Adam if config["optimizer"] == "adam" else SGD
    return Learner(model, make(rest.parameters(), lr=config["lr"]), strategies, seed=config["seed"])  # type: ignore[call-arg]


def run(suite: str, name: str, size: str, seed: int, on: str) -> dict[str, Any]:
    config = config_of(suite, name, size, seed, on)
    stream = stream_of(config)
    start = perf_counter()
    if name in LATENT:
        learner = latent_learner(config, stream, LATENT[name](size))
    else:
        learner = learner_of(config, stream)
    for task in stream.tasks:
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
    parts = [task.test if on == "test" else task.valid for task in stream.tasks]
    found = evaluate(learner, [part for part in parts if part is not None], task_known=False)
    memory = next(s for s in learner.strategies if isinstance(s, Replay)).memory
    return {
        "method": name,
        "bytes": size,
        "seed": seed,
        "on": on,
        "accuracy": sum(found) / len(found),
        "rows": len(memory),
        "bytes_held": memory.nbytes,
        "seconds": round(perf_counter() - start, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", choices=SUITES, default="digits")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--bytes", help="for instance 2KB,5KB")
    parser.add_argument("--methods", help="some of them, with ; between")
    parser.add_argument("--on", choices=["test", "valid"], default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    suite, sizes = SUITES[arguments.data]
    sizes = arguments.bytes.split(",") if arguments.bytes else sizes
    names = arguments.methods.split(";") if arguments.methods else [*METHODS, *LATENT]
    if arguments.data == "digits" and not arguments.methods:
        names.remove("replay, jpeg")  # 8 x 8 pixels are too few for JPEG
    path = arguments.out / f"frontier-{arguments.data}.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in map(int, arguments.seeds.split(",")):
        for size in sizes:
            for name in names:
                key = {"method": name, "bytes": size, "seed": seed, "on": arguments.on}
                if any(key.items() <= one.items() for one in runs):
                    continue
                try:
                    runs.append(run(suite, name, size, seed, arguments.on))
                except BudgetTooSmall as error:
                    print(f"{size:>6} seed {seed} {name:24}{error}", flush=True)
                    continue
                print(f"{size:>6} seed {seed} {name:24}{runs[-1]['accuracy']:7.3f}", flush=True)
                report = {"suite": suite, "command": sys.argv, "versions": versions(), "runs": runs}
                write_atomic(path, json.dumps(report, indent=1).encode())
    draw(runs, arguments.on, path.with_suffix(".png"))


def draw(runs: list[dict[str, Any]], on: str, path: Path) -> None:
    from lifelong.memory.budget import bytes_of

    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in runs:
        if one["on"] == on:
            found[one["method"]][bytes_of(one["bytes"])].append(one["accuracy"])
    write_curves(found, path, "bytes of memory", "accuracy after the last task")
    print(f"{path}\n")
    sizes = sorted({size for curve in found.values() for size in curve})
    print(f"{'bytes':24}" + "".join(f"{size:12g}" for size in sizes))
    for name, curve in found.items():
        means = [
            f"{100 * sum(curve[x]) / len(curve[x]):12.1f}" if x in curve else "" for x in sizes
        ]
        print(f"{name:24}" + "".join(means))


if __name__ == "__main__":
    main()
