"""Freshness against accuracy: what it costs to serve weights that are synced less often.

    python benchmarks/freshness.py [--seeds 5] [--out freshness.json]
    LIFELONG_DATA=FOLDER python benchmarks/freshness.py      also elec2/elec.csv.gz, if it is there

Labelled events go through the service's own event log and trainer. What is served is the learner as
of the last sync, after every 1, 5, 25 or 125 steps of 16 rows, or as it was after the first part of
the stream (batch-only). Every row after that part is answered before it is learned from; all
intervals answer the same rows of the same run. Shown are means over seeds with 95 % intervals.

`rotating` is synthetic: four classes of 8 features whose centres turn by 120 degrees during the
measured two thirds, differently placed for each seed. `elec2` is the Australian electricity market
(Harries 1999), 16 000 rows after the first 4 000, in order of time; seeds are those of the weights.
`elec2, scaled` is the same with each feature less its mean and over its deviation in those 4 000.
Monolith (Liu et al. 2022, arXiv:2209.07663) finds that fresher is better, monotonically.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from lifelong import Learner
from lifelong.bench.job import versions
from lifelong.metrics import interval
from lifelong.nets import MLP
from lifelong.serve.answers import NEVER, Answers
from lifelong.serve.events import Event
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.noting import Noting, Stretch
from lifelong.serve.plan import Plan
from lifelong.serve.schema import Schema
from lifelong.serve.trainer import Trainer
from lifelong.streams import gaussians, table

INTERVALS = (1, 5, 25, 125, NEVER)


@dataclass(frozen=True)
class Case:
    name: str
    rows: Callable[[int], tuple[Tensor, Tensor]]
    """Features and labels in order of time, of a seed."""
    classes: int
    first: int
    """Rows that are learned from before anything is measured."""


def rotating(seed: int) -> tuple[Tensor, Tensor]:
    stream = gaussians(
        9000, kind="incremental", motion="rotation", magnitude=120, at=(1 / 3,), duration=2 / 3,
        classes=4, features=8, separation=3.0, seed=seed,
    )  # fmt: skip
    rows = stream.tasks[0].train
    assert isinstance(rows.x, Tensor)
    return rows.x, rows.y


def elec2(seed: int) -> tuple[Tensor, Tensor]:
    del seed
    path = Path(os.environ["LIFELONG_DATA"]) / "elec2" / "elec.csv.gz"
    data = table(path, label="class", test=0, split="last")
    assert isinstance(data.train_x, Tensor)
    return data.train_x[:20_000], data.train_y[:20_000]


def scaled(seed: int) -> tuple[Tensor, Tensor]:
    x, y = elec2(seed)
    deviation = x[:4000].std(0)  # three features begin to move only later: they are centred alone
    return (x - x[:4000].mean(0)) / torch.where(deviation < 1e-3, 1.0, deviation), y


def answered(case: Case, seed: int) -> dict[int, float]:
    """Return the accuracy of what is served with each interval, on the rows after the first."""
    x, y = case.rows(seed)

    def make() -> Learner:
        torch.manual_seed(seed)
        net = MLP(x.shape[1], hidden=(32,), outputs=case.classes)
        return Learner(net, SGD(net.parameters(), lr=0.05), seed=seed)

    events = [
        Event("example", f"{seed}-{i}", 0.0, {"x": row, "y": label})
        for i, (row, label) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
    ]
    checks = Checked(Schema((x.shape[1],), classes=case.classes))
    with tempfile.TemporaryDirectory() as folder, SQLiteLog(f"{folder}/log", write=True) as log:
        log.append(events)
        noting = Noting(log, Stretch(case.first + 1, log.last, 1, 0), checks)
        plan = Plan(batch=16, every=10**9)
        trainer = Trainer(Path(folder), noting, make, checks, plan, classes=range(case.classes))
        trainer.step(case.first)
        answers = Answers(trainer, INTERVALS)

        def answer(upto: int) -> None:
            rows = noting.take(upto)
            features = np.stack([row.x for row in rows]) if rows else np.empty(0)
            answers.answer(features, [row.y for row in rows], [None] * len(rows))

        trainer.before = lambda: answer(noting.under_way(trainer.at.offset))
        trainer.catch_up()
        answer(log.last)
        trainer.quarantine.close()
    assert all(len(right) == len(y) - case.first for right in answers.right.values())
    return {k: sum(right) / len(right) for k, right in answers.right.items()}


def show(case: Case, found: list[dict[int, float]]) -> dict[str, Any]:
    """Print a table of one stream and return it."""
    print(f"\n{case.name}, {len(found)} seeds\n")
    print("| synced after | accuracy | less than the row above |")
    print("|---|--:|--:|")
    means, rows = [], []
    for place, k in enumerate(INTERVALS):
        one = interval([100 * run[k] for run in found])
        means.append(one.mean)
        name = "never (batch-only)" if k == NEVER else f"{k} step{'s' if k > 1 else ''}"
        row: dict[str, Any] = {"interval": k, "mean": one.mean, "half": one.half}
        less = ""
        if place:
            before = INTERVALS[place - 1]
            fall = interval([100 * (run[before] - run[k]) for run in found])
            row |= {"fall": fall.mean, "fall_half": fall.half}
            less = f"{fall.mean:.2f} ± {fall.half or 0:.2f}"
        print(f"| {name} | {one.mean:.2f} ± {one.half or 0:.2f} | {less} |")
        rows.append(row)
    monotone = all(a >= b for a, b in pairwise(means))
    print(f"\nfresher is never worse, in the means: {'yes' if monotone else 'NO'}")
    return {"stream": case.name, "monotone": monotone, "rows": rows, "runs": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="one of the streams")
    parser.add_argument("--out", type=Path, default=Path("freshness.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [Case("rotating", rotating, 4, 3000)]
    if (Path(os.environ.get("LIFELONG_DATA", "nowhere")) / "elec2" / "elec.csv.gz").exists():
        cases += [Case("elec2", elec2, 2, 4000), Case("elec2, scaled", scaled, 2, 4000)]
    cases = [case for case in cases if options.only in (None, case.name)]
    started = time.process_time()
    shown = [show(case, [answered(case, seed) for seed in range(options.seeds)]) for case in cases]
    seconds = time.process_time() - started
    print(f"\n{seconds:.0f} s of one core")
    report = {"streams": shown, "seconds": seconds, "versions": versions()}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
