"""Do the job of `benchmarks/peers.py` with this library, the way its users write it.

Memories are filled as those of Avalanche are: at the end of each task, replay's with equally many
rows of each task and DER++'s of each class. "online" fills them with every step, as Mammoth does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import fmean
from time import process_time
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from lifelong import EWC, DERpp, Learner, Replay, Strategy
from lifelong.bench.evaluate import evaluate
from lifelong.bench.job import versions
from lifelong.nets import MLP, Classifier, Pixels
from lifelong.streams import class_incremental, load


def strategies(job: dict[str, Any]) -> list[Strategy]:
    name, rows = job["strategy"], job["memory"]
    dark = {"strength": job["alpha"], "label_strength": job["beta"]}
    made: dict[str, Callable[[], Strategy]] = {
        "EWC": lambda: EWC(job["ewc"]),
        "EWC, 1000 rows": lambda: EWC(job["ewc"], rows=1000),
        "replay": lambda: Replay(rows, fill="task", policy="balanced", by="task"),
        "replay, online": lambda: Replay(rows),
        "DER++": lambda: DERpp(rows, fill="task", policy="balanced", **dark),
        "DER++, online": lambda: DERpp(rows, **dark),
    }
    return [made[name]()] if name in made else []


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    stream = class_incremental(
        load("fashion-mnist"), tasks=job["tasks"], batch=job["batch"], seed=job["seed"]
    )
    model = Classifier(MLP(784, (400, 400)), nn.Linear(400, 10), Pixels())
    optimizer = SGD(model.parameters(), lr=job["lr"])
    learner = Learner(model, optimizer, strategies(job), seed=job["seed"])
    seconds, rows = 0.0, 0
    for task in stream:
        start = process_time()
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
        seconds += process_time() - start
        rows += len(task.train)
        accuracy = fmean(evaluate(learner, stream.tests, task_known=False))
    result = {"rows_per_second": rows / seconds, "accuracy": accuracy, "versions": versions()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
