"""Freshness against accuracy: what it costs to serve weights that are synced less often.

    python benchmarks/freshness.py [--seeds 20] [--out freshness.json]
    LIFELONG_DATA=FOLDER python benchmarks/freshness.py      also elec2/elec.csv.gz, if it is there

Labelled events go through the service's own event log and trainer. What is served is the learner as
of the last sync, after so many steps of 16 rows, or as it was after the first part of the stream
(batch-only). Every row after that part is answered before it is learned from; all intervals answer
the same rows of the same run, so that only their differences are compared: paired, with 95 %
intervals over seeds.

How long an interval has to be to cost anything, the stream decides: weights that are synced after k
steps are (k - 1)/2 steps old on average, and near where they fit an error grows with the square of
how far the stream has moved meanwhile. So the intervals after the first are told in the stream's
own measure, and multiply:

- `rotating` is synthetic: four classes of 8 features whose centres turn by 120 degrees during the
  measured two thirds, differently placed for each seed. Synced after a step, and after 15, 30 and
  60 degrees.
- `elec2` is the Australian electricity market (Harries 1999) in order of time, a row for each half
  hour: 4 000 rows first, and the other 41 312, 123 weeks, measured. Synced after a step (9 hours),
  and after 1, 4 and 16 weeks: whole weeks, since demand goes round with the day and the week. It is
  one stream, and seeds are those of the weights; so intervals over ten stretches of it, of the
  means over seeds, are shown, too.
- `elec2, scaled` is the same with each feature less its mean and over its deviation in the first
  4 000.

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

BATCH, ANCHORS = 16, 0.1
STRETCHES = 10


def steps(rows: float) -> int:
    """Return the steps that the trainer takes in so many rows."""
    return round(rows * (1 - ANCHORS) / BATCH)


@dataclass(frozen=True)
class Case:
    name: str
    rows: Callable[[int], tuple[Tensor, Tensor]]
    """Features and labels in order of time, of a seed."""
    classes: int
    first: int
    """Rows that are learned from before anything is measured."""
    intervals: dict[int, str]
    """Steps between syncs, from short to long, and how far the stream moves in them."""
    seeds: int
    one: bool = False
    """Whether all seeds have the same stream."""


DEGREE, WEEK = 6000 / 120, 7 * 48  # in rows
TURNS = {steps(angle * DEGREE): f"{angle} degrees" for angle in (15, 30, 60)}
WEEKS = {steps(n * WEEK): f"{n} week{'s' if n > 1 else ''}" for n in (1, 4, 16)}


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
    return data.train_x, data.train_y


def scaled(seed: int) -> tuple[Tensor, Tensor]:
    x, y = elec2(seed)
    deviation = x[:4000].std(0)  # three features begin to move only later: they are centred alone
    return (x - x[:4000].mean(0)) / torch.where(deviation < 1e-3, 1.0, deviation), y


Found = dict[int, list[float]]
"""For each interval, the accuracy in each stretch of the rows after the first."""


def answered(case: Case, seed: int) -> Found:
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
        plan = Plan(batch=BATCH, anchors=ANCHORS, every=10**9)
        trainer = Trainer(Path(folder), noting, make, checks, plan, classes=range(case.classes))
        trainer.step(case.first)
        answers = Answers(trainer, tuple(case.intervals))

        def answer(upto: int) -> None:
            rows = noting.take(upto)
            features = np.stack([row.x for row in rows]) if rows else np.empty(0)
            answers.answer(features, [row.y for row in rows], [None] * len(rows))

        trainer.before = lambda: answer(noting.under_way(trainer.at.offset))
        trainer.catch_up()
        answer(log.last)
        trainer.quarantine.close()
    assert all(len(right) == len(y) - case.first for right in answers.right.values())
    return {
        k: [float(part.mean()) for part in np.array_split(np.array(right), STRETCHES)]
        for k, right in answers.right.items()
    }


def falls(case: Case, found: list[Found], before: int, k: int) -> dict[str, Any]:
    """Say how much less the interval `k` gets right than the one before, in points, paired."""
    # (seeds, stretches)
    fall = 100 * np.array([np.subtract(run[before], run[k]) for run in found])
    over = interval(fall.mean(1).tolist())
    told: dict[str, Any] = {"fall": over.mean, "half": over.half}
    if case.one:
        told["half_of_stretches"] = interval(fall.mean(0).tolist()).half
        told["stretches"] = fall.mean(0).tolist()
    return told


def show(case: Case, found: list[Found]) -> dict[str, Any]:
    """Print a table of one stream and return it."""
    print(f"\n{case.name}, {len(found)} seeds\n")
    more = " over stretches |" if case.one else ""
    print(f"| synced after | | accuracy | less than the row above |{more}")
    print("|---|---|--:|--:|" + ("--:|" if case.one else ""))
    rows: list[dict[str, Any]] = []
    for k, moved in case.intervals.items():
        one = interval([100 * float(np.mean(run[k])) for run in found])
        name = "never (batch-only)" if k == NEVER else f"{k} step{'s' if k > 1 else ''}"
        row = {"interval": k, "moved": moved, "mean": one.mean, "mean_half": one.half}
        cells = [name, moved, f"{one.mean:.2f} ± {one.half or 0:.2f}", ""] + [""] * case.one
        if rows:
            row |= falls(case, found, rows[-1]["interval"], k)
            cells[3] = f"{row['fall']:.2f} ± {row['half'] or 0:.2f}"
            if case.one:
                cells[4] = f"± {row['half_of_stretches']:.2f}"
        print("| " + " | ".join(cells) + " |")
        rows.append(row)
    lost = [row["fall"] for row in rows[1:]]
    shown = [row["fall"] > max(row["half"], row.get("half_of_stretches", 0)) for row in rows[1:]]
    print(f"\nfresher is better, in the means: {'yes' if min(lost) > 0 else 'NO'}", end="; ")
    print(f"{sum(shown)} of {len(shown)} falls are larger than their intervals")
    return {"stream": case.name, "monotone": min(lost) > 0, "rows": rows, "runs": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, help="2 or more; by default each stream's own number")
    parser.add_argument("--only", help="one of the streams")
    parser.add_argument("--out", type=Path, default=Path("freshness.json"))
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}; an interval needs 2 or more")
    torch.set_num_threads(1)
    never = {NEVER: "120 degrees"}
    cases = [Case("rotating", rotating, 4, 3000, {1: "0.4 degrees"} | TURNS | never, 20)]
    if (Path(os.environ.get("LIFELONG_DATA", "nowhere")) / "elec2" / "elec.csv.gz").exists():
        spaced = {1: "9 hours"} | WEEKS | {NEVER: "123 weeks"}
        cases += [
            Case(name, rows, 2, 4000, spaced, 5, one=True)
            for name, rows in (("elec2", elec2), ("elec2, scaled", scaled))
        ]
    cases = [case for case in cases if options.only in (None, case.name)]
    started = time.process_time()
    shown = [
        show(case, [answered(case, seed) for seed in range(options.seeds or case.seeds)])
        for case in cases
    ]
    seconds = time.process_time() - started
    print(f"\n{seconds:.0f} s of one core")
    report = {"streams": shown, "seconds": seconds, "versions": versions()}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
