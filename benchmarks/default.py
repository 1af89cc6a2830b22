"""The default, one setting for all suites, against methods tuned for each, at equal bytes.

    LIFELONG_DATA=... python benchmarks/default.py --into docs/results.md

Four class-incremental suites: digits, Split MNIST and Split Fashion-MNIST in one pass, and CLINC150
(150 intents in 10 tasks, a small head on the features of MiniLM, each row once). The default is the
recipe of that name with the suite's bytes, and no setting differs between suites. Each opponent is
tuned for each suite on rows kept apart from training (a tenth; the `val` part of CLINC150), with
seeds from 10 on: first the optimizer with its rate, then the rows replayed, then the strengths,
each at the best of those before. All replay methods keep their rows alike, in as many bytes:
equal shares of each class, and features in 16 bits. Then all learn with seeds 0 to 4 from all
training rows, and are measured on test rows, once, at the end.

One thread. Each run is written to OUT/runs.json when it is over, and is not done again. Features
of CLINC150 are computed once, in about a minute, and kept in `--cache`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import fsum
from pathlib import Path
from time import process_time
from typing import Any

import torch
from analytic import embedded_clinc
from torch import nn

from lifelong import Learner, LifelongError
from lifelong.bench import recipes
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.evaluate import evaluate
from lifelong.bench.job import versions
from lifelong.bench.reproduce import Table, put_into
from lifelong.bench.results import write_atomic
from lifelong.bench.suites import resolve
from lifelong.metrics.confidence import interval
from lifelong.metrics.cost import state_bytes
from lifelong.nets import MLP, Classifier
from lifelong.streams import Labelled, Rows, Stream, class_incremental

Given = dict[str, Any]
TITLE = "The default against tuned methods"
SUITES: dict[str, tuple[str, str, int]] = {
    "digits": ("digits", "18KB", 2),
    "split-mnist-online": ("Split MNIST", "160KB", 1),
    "split-fashion-mnist": ("Split Fashion-MNIST", "160KB", 1),
    "clinc150": ("CLINC150", "480KB", 1),
}
"""By the name of the suite: its title, the bytes of a memory, and on how many seeds to tune."""
METHODS = {
    "default": "default, one setting for all",
    "replay": "ER",
    "der++": "DER++",
    "er-ace": "ER-ACE",
    "ewc": "EWC",
}
CLINC: Given = {"batch": 10, "epochs": 1, "optimizer": "adam", "lr": 1e-3}


def optimizers(suite: str) -> list[Given]:
    """List how an opponent may learn; the default's way is among these."""
    mnist = suite in ("split-mnist-online", "split-fashion-mnist")
    rates = (2e-3, 1e-3) if mnist else (2e-3, 1e-3, 3e-3)
    made: list[Given] = [
        {"optimizer": "adam", "lr": rate, "momentum": 0.0, "weight_decay": 0.0} for rate in rates
    ]
    return [*made, {}] if mnist else made  # SGD at the suite's own rate


def grids(suite: str, method: str) -> list[list[Given]]:
    """List the choices, one after the other; each is made at the best of those before."""
    if method == "ewc":
        return [optimizers(suite), [{"ewc.strength": value} for value in (10.0, 1000.0)]]
    rows = [
        {f"{method}.rows": count} for count in ((256, None) if "fashion" in suite else (32, None))
    ]
    strengths = [(0.1, 0.5), (0.5, 1.0)] if method == "der++" else []
    told = [{"der++.strength": a, "der++.label_strength": b} for a, b in strengths]
    return [[{**one, **rows[0]} for one in optimizers(suite)], rows[1:], told]


class Runs:
    """Every run that is over, in a file."""

    def __init__(self, path: Path, parts: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.path, self.parts = path, parts
        self.held: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def get(self, suite: str, method: str, seed: int, on: str, given: Given) -> dict[str, Any]:
        """Give a run, and do it if it has not been done."""
        key = {"suite": suite, "method": method, "seed": seed, "on": on, "given": given}
        for one in self.held:
            if key.items() <= one.items():
                return one
        found = {**key, **self._run(suite, method, seed, on, given)}
        self.held.append(found)
        write_atomic(self.path, json.dumps(self.held, indent=1).encode())
        print(f"{suite:20}{on:6}{method:9}{seed:3}{found['accuracy']:7.2f} {given}", flush=True)
        return found

    def _run(self, suite: str, method: str, seed: int, on: str, given: Given) -> dict[str, Any]:
        stream, tests, learner = self._made(suite, method, seed, on, given)
        start, failed = process_time(), ""
        try:
            for task in stream:
                learner.begin_task(task)
                for batch in task:
                    learner.observe(batch)
                learner.end_task(task)
        except LifelongError as error:  # it diverges with these settings
            failed = f"{type(error).__name__}: {error}"
        seconds = process_time() - start
        found = evaluate(learner, tests, False) if not failed else [0.0]
        kept = [strategy.state_dict() for strategy in learner.strategies]
        for state in kept:
            state.pop("generator", None)
        return {
            "accuracy": 100 * sum(found) / len(found),
            "seconds": seconds,
            "bytes": state_bytes(kept),
            "failed": failed,
        }

    def _made(
        self, suite: str, method: str, seed: int, on: str, given: Given
    ) -> tuple[Stream, Sequence[Rows], Learner]:
        memory: Given = {}
        if method != "ewc":
            memory = {f"{method}.capacity": SUITES[suite][1]}
        if method not in ("default", "ewc"):
            memory |= {f"{method}.policy": "balanced", f"{method}.store": "auto"}
        given = {**memory, **given}
        if suite != "clinc150":
            if on == "valid":
                given |= {"validation": 0.1, "on": "valid"}
            config = {**resolve(suite, method, given), "seed": seed}
            stream = stream_of(config)
            kept = [task.test if on == "test" else task.valid for task in stream.tasks]
            return stream, [part for part in kept if part is not None], learner_of(config, stream)
        config = {**resolve("digits", method, {**CLINC, **given}), "seed": seed}
        if method == "default":
            config |= recipes.training(method)
        (x, y), (other, known) = self.parts["train"], self.parts["val" if on == "valid" else "test"]
        data = Labelled(suite, x, y, other, known, tuple(map(str, range(150))))
        stream = class_incremental(
            data, tasks=10, batch=config["batch"], epochs=config["epochs"], seed=seed
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Classifier(MLP(x.shape[1], (256,)), nn.Linear(256, 150))
        optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"], fused=True)
        strategies = recipes.make(method, config["settings"])
        return stream, stream.tests, Learner(model, optimizer, strategies, seed=seed)


def tuned(runs: Runs, suite: str, method: str) -> Given:
    """Choose an opponent's settings on the rows kept apart; the first of equals."""

    def value(given: Given) -> float:
        seeds = range(10, 10 + SUITES[suite][2])
        return fsum(runs.get(suite, method, seed, "valid", given)["accuracy"] for seed in seeds)

    best: Given = {}
    for number, choices in enumerate(grids(suite, method)):
        found = [{**best, **choice} for choice in choices]
        best = max([*([best] if number else []), *found], key=value)
    return best


def heading(suites: list[str], seeds: list[int]) -> str:
    """Name the section: a part of the suites has one of its own."""
    if suites == list(SUITES):
        return TITLE
    return f"{TITLE}: {', '.join(SUITES[suite][0] for suite in suites)}, {len(seeds)} seeds"


def section(
    runs: Runs, seeds: list[int], chosen: dict[tuple[str, str], Given], command: str
) -> str:
    """Write the tables, for a page of docs."""
    suites = list(dict.fromkeys(suite for suite, _ in chosen))
    names = [SUITES[suite][0] for suite in suites]
    lines = [
        f"## {heading(suites, seeds)}",
        "",
        "`default_learner` with no setting changed between suites (the one that it has was chosen "
        "on rows kept apart of digits, Split MNIST, Split Fashion-MNIST and CLINC150 together), "
        "and four methods whose rate, rows and strengths were chosen for each suite on rows kept "
        "apart. All but EWC have the "
        "same bytes for their rows, in equal shares of each class, features in 16 bits. Average "
        "accuracy in percent on test rows after the last task, mean and 95 % interval of "
        f"{len(seeds)} seeds; the last line is the mean difference to the best of the four, seed "
        "by seed. What the suites are and what was searched is said in `benchmarks/default.py`.",
        "",
        f"`{command}`",
        "",
        "| | " + " | ".join(", ".join(SUITES[suite][:2]) for suite in suites) + " |",
        "|---|" + "--:|" * len(suites),
    ]
    found = {
        (suite, method): [
            runs.get(suite, method, seed, "test", chosen[suite, method]) for seed in seeds
        ]
        for suite in suites
        for method in METHODS
    }
    values = {key: [one["accuracy"] for one in own] for key, own in found.items()}
    for method, title in METHODS.items():
        cells = [interval(values[suite, method]) for suite in suites]
        told = [f"{cell.mean:.2f} ± {cell.half or 0.0:.2f}" for cell in cells]
        lines.append(f"| {title} | " + " | ".join(told) + " |")
    gaps = []
    for suite in suites:
        best = max(list(METHODS)[1:], key=lambda method: sum(values[suite, method]))
        pairs = zip(values[suite, "default"], values[suite, best], strict=True)
        gap = interval([ours - theirs for ours, theirs in pairs])
        gaps.append(f"{gap.mean:+.2f} ± {gap.half or 0.0:.2f} ({METHODS[best]})")
    lines.append("| default - best of the four | " + " | ".join(gaps) + " |")
    lines += ["", "| seconds a run; bytes kept | " + " | ".join(names) + " |"]
    lines.append("|---|" + "--:|" * len(suites))
    for method, title in METHODS.items():
        told = []
        for suite in suites:
            own = found[suite, method]
            seconds = sum(one["seconds"] for one in own) / len(own)
            told.append(f"{seconds:.1f}; {max(one['bytes'] for one in own):,}")
        lines.append(f"| {title} | " + " | ".join(told) + " |")
    lines += ["", "Chosen on rows kept apart, where it differs from the suite:", ""]
    for (suite, method), given in chosen.items():
        if method != "default":
            settings = [
                f"{name.rpartition('.')[2]} {value}"
                for name, value in given.items()
                if name not in ("momentum", "weight_decay")
            ]
            settings = settings if "lr" in given else ["the suite's SGD", *settings]
            lines.append(f"- {SUITES[suite][0]}, {METHODS[method]}: {', '.join(settings)}")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--out", type=Path, default=Path("runs/default"))
    parser.add_argument("--cache", type=Path, default=Path("features"))
    parser.add_argument("--into", type=Path, help="a Markdown page, to put the tables into")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = given.cache / "clinc150.pt"
    if not path.exists():
        given.cache.mkdir(parents=True, exist_ok=True)
        torch.save(embedded_clinc(), path)
    given.out.mkdir(parents=True, exist_ok=True)
    runs = Runs(given.out / "runs.json", torch.load(path, weights_only=True))
    chosen: dict[tuple[str, str], Given] = {}
    for suite in given.suites:
        for method in METHODS:
            chosen[suite, method] = {} if method == "default" else tuned(runs, suite, method)
        for seed in given.seeds:
            for method in METHODS:
                runs.get(suite, method, seed, "test", chosen[suite, method])
    command = "python benchmarks/default.py --into docs/results.md"
    if given.suites != list(SUITES):
        command += f" --suites {' '.join(given.suites)}"
    if given.seeds != [0, 1, 2, 3, 4]:
        command += f" --seeds {' '.join(map(str, given.seeds))}"
    text = section(runs, given.seeds, chosen, command)
    report = {"command": command, "versions": versions(), "runs": runs.held}
    write_atomic(given.out / "default.json", json.dumps(report, indent=1).encode())
    print(text)
    if given.into:
        name = heading(given.suites, given.seeds)
        put_into(given.into, Table("default", name, "", "", ()), text)


if __name__ == "__main__":
    main()
