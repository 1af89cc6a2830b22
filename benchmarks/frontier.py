"""Accuracy against memory, at equal bytes: which rows to keep, in what form, or a generator.

    python benchmarks/frontier.py --data digits --seeds 0,1,2 --into docs
    python benchmarks/frontier.py --data fashion --seeds 0,1,2 --into docs
    python benchmarks/frontier.py --data features --seeds 0,1,2 --into docs    CIFAR-10's, frozen

Every method gets the same bytes for all columns of its rows: inputs, labels, tasks, ids, and what
it adds (stored outputs, ranks, hashes). A generator gets them for its weights (DGR's VAE is as wide
as they allow), and what keeps no rows, such as a copy of the model or sums of features, has as many
as it has. The last model of iCaRL and the models that GDumb and Sleep keep, of one size whatever
the memory's, are not counted. Settings are the library's defaults, and the suite's; the same model
and order of batches for all, and but for the default learner, which brings its own, the same
optimizer. A trunk is frozen, a part of the model, and not counted: that of the latents learns the
first task's rows, that of the features is of random patches. Images that stand before a frozen
trunk are as good as their features, and are counted as 3072 bytes. Accuracy is the mean over all
tasks after the last, on test rows (with --on valid: on a tenth of the training rows, kept apart, to
choose settings by). One thread.

Writes OUT/frontier-DATA.json after every run, and goes on from there when it is called again;
draws OUT/frontier-DATA.png, and with --into DOCS that file and a section of DOCS/results.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from time import process_time
from typing import Any

import torch
from random_patches import patch_features
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from lifelong import DGR, DERpp, FeatureReplay, ICaRL, Latents, Learner, Replay, Strategy
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.evaluate import evaluate
from lifelong.bench.job import bytes_kept, versions
from lifelong.bench.plots import write_frontier
from lifelong.bench.reproduce import Table, put_into
from lifelong.bench.results import write_atomic
from lifelong.bench.suites import resolve
from lifelong.core.errors import BudgetTooSmall, NonFiniteLoss
from lifelong.memory import Memory
from lifelong.memory.budget import bytes_of
from lifelong.nets import MLP, Classifier, LatentModel
from lifelong.nets.generators import VAE
from lifelong.streams import Stream, class_incremental, load


@dataclass(frozen=True)
class Data:
    """What is learned, and with how many bytes."""

    title: str
    suite: str
    sizes: list[str]
    given: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


SHORT = {"width": 100, "limit": 1000, "epochs": 5, "batch": 10}
"""Small batches, so that it is rows and not steps that are short: all rows at once come to 71.5 %
on rows of Fashion-MNIST kept apart with 128 a batch, to 81.6 % with 32 and to 85.3 % with 10."""
DATA = {
    "digits": Data(
        "Digits of 8x8 pixels; all training rows take 126 KB",
        "digits",
        ["5KB", "10KB", "40KB"],
        without=("replay, int8", "replay, jpeg", "images"),  # 8 x 8 pixels are too few for JPEG
    ),
    "fashion": Data(
        "Split Fashion-MNIST, 1000 rows a class, 5 passes in batches of 10, MLP of 2 x 100",
        "split-fashion-mnist",
        ["0.2MB", "1MB", "5MB"],
        SHORT,
        without=("replay, int8", "images"),
    ),
    "features": Data(
        "Split CIFAR-10 behind a frozen trunk, 1000 rows a class, 5 passes in batches of 10, MLP "
        "of 2 x 100; the trunk is one layer of random patches of the first two classes, 1024 "
        "features, no labels",
        "split-cifar10-small",
        ["0.2MB", "1MB", "5MB"],
        {**SHORT, "model": "mlp", "augment": False, "scale": 1.0, "lr": 0.02},
        without=("replay, jpeg", "latents", "latents, int8", "latents, int8, der++"),
    ),
}
IMAGE = 3 * 32 * 32 + 3 * 8
"""Bytes of pixels, and of the label, the task and the id."""
BALANCED = {"policy": "balanced"}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "replay": ("replay", {}),
    "replay, balanced": ("replay", BALANCED),
    "replay, int8": ("replay", {**BALANCED, "store": "int8"}),
    "replay, jpeg": ("replay", {**BALANCED, "store": "jpeg"}),
    "images": ("replay", BALANCED),
    "exemplars, herding": ("exemplars", {"select": "herding"}),
    "exemplars, k-center": ("exemplars", {"select": "k-center"}),
    "prioritized": ("prioritized", {}),
    "clean replay": ("clean-replay", BALANCED),
    "der": ("der", BALANCED),
    "der++": ("der++", BALANCED),
    "er-ace": ("er-ace", BALANCED),
    "x-der": ("x-der", {}),
    "icarl": ("icarl", {}),
    "gdumb": ("gdumb", {}),
    "mir": ("mir", BALANCED),
    "a-gem": ("a-gem", {}),
    "gem": ("gem", {}),
    "eeil": ("eeil", {}),
    "bic": ("bic", {}),
    "sleep": ("sleep", {}),
    "default": ("default", {}),
    "dgr, vae": ("dgr", {"strict": False}),
}
LATENT = {
    "latents": lambda size: [Latents(), Replay(size, policy="balanced")],
    "latents, int8": lambda size: [Latents(), Replay(size, policy="balanced", store="int8")],
    "latents, int8, der++": lambda size: [
        Latents(),
        DERpp(size, policy="balanced", store="int8"),
    ],
}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "ewc": ("ewc", {}),
    "lwf": ("lwf", {}),
    "growing-lwf": ("growing-lwf", {}),
    "gpm": ("gpm", {}),
    "ncm": ("ncm", {}),
    "slda": ("slda", {}),
    "ranpac-warm": ("ranpac-warm", {}),
    "moments, diagonal": ("feature-replay", {"covariance": "diagonal"}),
    "moments, shared": ("feature-replay", {"covariance": "shared"}),
    "moments": ("feature-replay", {"covariance": "class"}),
}
"""What keeps no rows, and takes as many bytes as it takes."""


def config_of(
    data: Data, name: str, size: str, seed: int, on: str, shape: Sequence[int]
) -> dict[str, Any]:
    strategy, settings = (METHODS | OWN).get(name, ("fine-tune", {}))
    given = {f"{strategy}.{key}": value for key, value in settings.items()} | data.given
    if name == "default":  # it brings its optimizer and rate
        given = {key: value for key, value in given.items() if key != "lr"}
    if strategy == "dgr":
        given["dgr.width"] = widest(shape, bytes_of(size))
    elif name == "images":
        given["replay.capacity"] = bytes_of(size) // IMAGE
    elif name in ("icarl", "a-gem", "gem"):
        given[f"{strategy}.capacity"] = bytes_of(size) // row_bytes(shape, data)
    elif name in METHODS:
        given[f"{strategy}.capacity"] = size
    if on == "valid":
        given["validation"] = 0.1
    return {**resolve(data.suite, strategy, given), "seed": seed}


def row_bytes(shape: Sequence[int], data: Data) -> int:
    """Count the bytes of a row's columns at most: its inputs, label, task, id and one more."""
    return prod(shape) * (4 if data.suite == "split-cifar10-small" else 1) + 4 * 8


def widest(shape: Sequence[int], size: int) -> int:
    """Find the widest VAE whose weights take no more than these bytes."""
    low, high = 1, 2000
    while low < high:
        middle = (low + high + 1) // 2
        held = 4 * sum(p.numel() for p in VAE(shape, (middle, middle)).parameters())
        low, high = (middle, high) if held <= size else (low, middle - 1)
    return low


def stream_for(data: Data, seed: int, on: str) -> Stream:
    """Cut the data into tasks; the features of images are computed once."""
    given = data.given if on == "test" else {**data.given, "validation": 0.1}
    config = resolve(data.suite, "fine-tune", given)
    if data.suite != "split-cifar10-small":
        return stream_of({**config, "seed": seed})
    options = {name: config[name] for name in ("validation", "limit", "batch", "epochs", "tasks")}
    return class_incremental(features(), seed=seed, **options)


@cache
def features() -> Any:
    return patch_features(load("cifar10"))


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


def run(data: Data, name: str, size: str, seed: int, on: str) -> dict[str, Any]:
    stream = stream_for(data, seed, on)
    x = stream.tasks[0].train.x
    assert isinstance(x, torch.Tensor)
    config = config_of(data, name, size, seed, on, x.shape[1:])
    start = process_time()
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
    kept = held(learner)
    if not kept:
        kept = {"rows": 0, "bytes_held": bytes_kept(learner, stream, config["strategy"])}
    if name == "images":
        kept["bytes_held"] = kept["rows"] * IMAGE
    return {
        **{"method": name, "bytes": size, "seed": seed, "on": on},
        "accuracy": sum(found) / len(found),
        **kept,
        "seconds": round(process_time() - start, 2),
    }


def held(learner: Learner) -> dict[str, int]:
    """Count what is held of old tasks: rows and bytes; nothing if it is no rows or generator."""
    for strategy in learner.strategies:
        memories = [getattr(strategy, name, None) for name in ("memory", "aside")]
        if found := [one for one in memories if isinstance(one, Memory)]:
            return {"rows": sum(map(len, found)), "bytes_held": sum(one.nbytes for one in found)}
        if isinstance(strategy, ICaRL):
            columns = strategy.exemplars
            held_bytes = sum(column.nbytes for column in columns.values())
            return {"rows": len(columns["y"]), "bytes_held": held_bytes}
        if isinstance(strategy, DGR):
            weights = strategy.scholar.weights.values()
            return {"rows": 0, "bytes_held": sum(w.nbytes for w in weights)}
        if isinstance(strategy, FeatureReplay):
            moments = strategy.gaussians
            parts = (moments.counts, moments.sums, moments.products)
            return {"rows": 0, "bytes_held": sum(part.nbytes for part in parts)}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--bytes", help="for instance 2KB,5KB")
    parser.add_argument("--methods", help="some of them, with ; between")
    parser.add_argument("--on", choices=["test", "valid"], default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--into", type=Path, help="a folder of docs, for the plot and the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DATA[arguments.data]
    sizes = arguments.bytes.split(",") if arguments.bytes else data.sizes
    names = [name for name in [*METHODS, *LATENT, *OWN] if name not in data.without]
    names = arguments.methods.split(";") if arguments.methods else names
    path = arguments.out / f"frontier-{arguments.data}.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in map(int, arguments.seeds.split(",")):
        for size in sizes:
            for name in names:
                # Theirs is the size that they have.
                key = {"method": name, "bytes": size, "seed": seed, "on": arguments.on}
                if name in OWN:
                    key["bytes"] = "own"
                if any(key.items() <= one.items() for one in runs):
                    continue
                try:
                    runs.append(run(data, name, str(key["bytes"]), seed, arguments.on))
                except BudgetTooSmall as error:
                    print(f"{size:>6} seed {seed} {name:24}{error}", flush=True)
                    continue
                except NonFiniteLoss as error:
                    runs.append({**key, "failed": str(error)})
                told = runs[-1].get("failed") or f"{runs[-1]['accuracy']:7.3f}"
                print(f"{size:>6} seed {seed} {name:24}{told}", flush=True)
                report = {
                    "suite": data.suite,
                    "given": data.given,
                    "command": sys.argv,
                    "versions": versions(),
                    "runs": runs,
                }
                write_atomic(path, json.dumps(report, indent=1).encode())
    shown = [one for one in runs if one["on"] == arguments.on and "failed" not in one]
    failed = [one for one in runs if one["on"] == arguments.on and "failed" in one]
    draw(shown, path.with_suffix(".png"))
    command = f"python benchmarks/frontier.py {shlex.join(sys.argv[1:])}"
    text = section(arguments.data, shown, failed, command)
    print(text)
    if arguments.into:
        draw(shown, arguments.into / path.with_suffix(".png").name)
        put_into(arguments.into / "results.md", Table("", title(arguments.data), "", "", ()), text)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in runs:
        size = own_size(one["method"], runs) if one["bytes"] == "own" else bytes_of(one["bytes"])
        found[one["method"]][size].append(one["accuracy"])
    write_frontier(found, path, "bytes of memory", "accuracy after the last task")


def own_size(method: str, runs: list[dict[str, Any]]) -> float:
    """Average the bytes of a method that takes what it takes."""
    held = [one["bytes_held"] for one in runs if one["method"] == method]
    return float(sum(held) / len(held))


def title(name: str) -> str:
    return f"Accuracy against bytes: {name}"


def section(
    name: str, runs: list[dict[str, Any]], failed: list[dict[str, Any]], command: str
) -> str:
    """Write the table, for a page of docs."""
    sizes = [size for size in dict.fromkeys(one["bytes"] for one in runs) if size != "own"]
    seeds = len({one["seed"] for one in runs})
    lines = [
        f"## {title(name)}",
        "",
        f"{DATA[name].title}. Mean accuracy in percent after the last of five tasks, {seeds} "
        f"seeds; `{command}`. What counts as bytes, the script's first lines say.",
        "",
        f"![Accuracy against bytes of memory](frontier-{name}.png)",
        "",
        "| method |" + "".join(f" {size} |" for size in sizes),
        "|---|" + "--:|" * len(sizes),
    ]
    for method in dict.fromkeys(one["method"] for one in runs):
        own = [one for one in runs if one["method"] == method]
        if own[0]["bytes"] == "own":
            mean = 100 * sum(one["accuracy"] for one in own) / len(own)
            cells = [f"{mean:.1f} with {own_size(method, own) / 1000:.0f} KB"]
            cells += [""] * (len(sizes) - 1)
        else:
            cells = []
            for size in sizes:
                found = [100 * one["accuracy"] for one in own if one["bytes"] == size]
                cells.append(f"{sum(found) / len(found):.1f}" if found else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if failed:
        told = ", ".join(f"{one['method']} (seed {one['seed']})" for one in failed)
        lines += ["", f"Runs whose training diverged are in no mean: {told}."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
