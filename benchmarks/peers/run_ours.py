"""Do the job of `benchmarks/peers.py` with this library, the way its users write it."""

from __future__ import annotations

import json
import sys
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
    if job["strategy"] == "EWC":
        return [EWC(job["ewc"])]
    if job["strategy"] == "replay":
        return [Replay(job["memory"])]
    if job["strategy"] == "DER++":
        return [DERpp(job["memory"], strength=job["alpha"], label_strength=job["beta"])]
    return []


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
