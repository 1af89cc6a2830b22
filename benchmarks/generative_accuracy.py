"""Accuracy of generative replay on Split MNIST, class-incremental: a VAE, a GAN and a diffusion.

    python benchmarks/generative_accuracy.py --seeds 0,1,2 --into docs/results.md
    python benchmarks/generative_accuracy.py --on valid --seeds 3     to choose settings by

The suite is `split-mnist-class` with fewer steps a task than its 2000 (`--iterations`). Settings
are the library's defaults. One thread. Writes OUT/generative-accuracy.json after every run, and
goes on from there when it is called again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch

from lifelong import DGR, Learner
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.evaluate import evaluate
from lifelong.bench.job import versions
from lifelong.bench.reproduce import Table, put_into
from lifelong.bench.results import write_atomic
from lifelong.bench.suites import resolve
from lifelong.metrics.confidence import interval

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dgr, VAE": ("dgr", {}),
    "dgr, GAN": ("dgr", {"kind": "gan"}),
    "mergan (conditional GAN)": ("mergan", {}),
    "dgr, diffusion": ("dgr", {"kind": "diffusion"}),
}
TITLE = "Split MNIST with generative replay, class-incremental"


def run(name: str, seed: int, iterations: int, on: str) -> dict[str, Any]:
    """Learn the five tasks; measure all of them at the end."""
    strategy, settings = METHODS[name]
    given: dict[str, Any] = {f"{strategy}.{key}": value for key, value in settings.items()}
    given |= {"iterations": iterations, "validation": 0.1 if on == "valid" else 0.0}
    config = {**resolve("split-mnist-class", strategy, given), "seed": seed}
    stream = stream_of(config)
    learner = learner_of(config, stream)
    start = process_time()
    for task in stream.tasks:
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
    seconds = process_time() - start
    parts = [task.test if on == "test" else task.valid for task in stream.tasks]
    found = evaluate(learner, [part for part in parts if part is not None], task_known=False)
    return {
        **{"method": name, "seed": seed, "iterations": iterations, "on": on},
        "accuracy": sum(found) / len(found),
        "tasks": found,
        "reports": reports_of(learner),
        "step_ms": round(1e3 * seconds / (iterations * len(stream.tasks)), 2),
    }


def reports_of(learner: Learner) -> list[dict[str, float]]:
    return next(s for s in learner.strategies if isinstance(s, DGR)).reports


def section(runs: list[dict[str, Any]], command: str) -> str:
    """Write the table, for a page of docs."""
    lines = [
        f"## {TITLE}",
        "",
        "MLP of 2 x 400 ReLU units, 5 tasks of 2 digits, Adam 1e-3, "
        f"{runs[0]['iterations']} steps a task of 128 rows and 128 made ones; the library's "
        "defaults. The overlap of classes and the Frechet distance are the generator's after the "
        "last task, as `reports` has them. A step is the model's and the generator's, in processor "
        "time of one thread.",
        "",
        f"`{command}`",
        "",
        "| method | seeds | accuracy ± 95 % | lowest | overlap | distance | ms a step |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in METHODS:
        own = [one for one in runs if one["method"] == name]
        if not own:
            continue
        found = interval([100 * one["accuracy"] for one in own])
        last = [one["reports"][-1] for one in own]
        overlap, distance = (
            sum(report[key] for report in last) / len(own) for key in ("overlap", "distance")
        )
        lines.append(
            f"| {name} | {len(own)} | {found.mean:.2f} ± {found.half or 0.0:.2f} "
            f"| {min(100 * one['accuracy'] for one in own):.2f} | {overlap:.2f} | {distance:.3f} "
            f"| {sum(one['step_ms'] for one in own) / len(own):.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", help="some of them, with ; between")
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--on", choices=["test", "valid"], default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/generative-accuracy"))
    parser.add_argument("--into", type=Path, help="a Markdown page, to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "generative-accuracy.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    names = arguments.methods.split(";") if arguments.methods else list(METHODS)
    asked = {"iterations": arguments.iterations, "on": arguments.on}
    for seed in map(int, arguments.seeds.split(",")):
        for name in names:
            key = {"method": name, "seed": seed, **asked}
            if any(key.items() <= one.items() for one in runs):
                continue
            runs.append(run(name, seed, arguments.iterations, arguments.on))
            print(f"seed {seed} {name:26}{runs[-1]['accuracy']:7.3f}", flush=True)
            report = {"command": sys.argv, "versions": versions(), "runs": runs}
            write_atomic(path, json.dumps(report, indent=1).encode())
    shown = [one for one in runs if asked.items() <= one.items()]
    text = section(shown, f"python benchmarks/generative_accuracy.py {shlex.join(sys.argv[1:])}")
    print(text)
    if arguments.into:
        put_into(arguments.into, Table("generative", TITLE, "", "", ()), text)


if __name__ == "__main__":
    main()
