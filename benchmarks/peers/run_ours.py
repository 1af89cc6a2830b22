"""Do the job of `benchmarks/peers.py` with this library, the way its users write it.

Memories are filled as those of Avalanche are: at the end of each task, replay's with equally many
rows of each task and the others' of each class. "online" fills them with every step, as Mammoth
does. Strengths are given in the convention of each side; the factors between them stand here.
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

from lifelong import (
    AGEM,
    DER,
    DGR,
    ERACE,
    EWC,
    GEM,
    MAS,
    MIR,
    SI,
    BiC,
    DERpp,
    GDumb,
    ICaRL,
    Learner,
    LwF,
    Replay,
    Strategy,
)
from lifelong.bench.evaluate import evaluate
from lifelong.bench.job import versions
from lifelong.metrics import state_bytes
from lifelong.nets import MLP, Classifier, NearestMeanHead, Pixels
from lifelong.streams import Stream, class_incremental, cumulative, joint, load

BOUNDS: dict[str, Callable[[Stream], Stream]] = {"joint": joint, "cumulative": cumulative}
CLASSES: dict[str, Any] = {"fill": "task", "policy": "balanced"}
"""Of memories with equally many rows of each class, chosen when a task is over."""


def strategies(job: dict[str, Any]) -> list[Strategy]:
    name, rows, count = job["strategy"], job["memory"], job["replayed"]
    dark = {"strength": job["alpha"], "label_strength": job["beta"]}
    made: dict[str, Callable[[], Strategy]] = {
        "EWC": lambda: EWC(job["ewc"]),
        "EWC, 1000 rows": lambda: EWC(job["ewc"], rows=1000),
        "online EWC": lambda: EWC(job["ewc"], decay=job["decay"]),
        # Theirs has no importance above 0.001, and a factor of a half.
        "SI": lambda: SI(job["si"], damping=job["damping"]),
        # Theirs takes the mean of the tasks' importance, and the magnitude of mean gradients.
        "MAS": lambda: MAS(job["mas"]),
        # Theirs distils among old classes alone, and has no factor of T**2.
        "LwF": lambda: LwF(
            job["lwf"] / job["temperature"] ** 2, temperature=job["temperature"]
        ),
        # Theirs holds a fifth of the memory for each task from the start, ours shares all of it
        # among the tasks so far; theirs looks at all that it holds in each step, as the paper does.
        "GEM": lambda: GEM(rows, margin=job["margin"], rows=job["gem_rows"]),
        "A-GEM": lambda: AGEM(rows, rows=job["reference"]),
        "replay": lambda: Replay(rows, fill="task", policy="balanced", by="task"),
        "replay, online": lambda: Replay(rows),
        "DER": lambda: DER(rows, strength=job["alpha"], **CLASSES),
        "DER++": lambda: DERpp(rows, **CLASSES, **dark),
        "DER++, online": lambda: DERpp(rows, **dark),
        # Theirs offers the memory a task's rows before it begins, ours with every step.
        "ER-ACE": lambda: ERACE(rows, policy="balanced", rows=count),
        "MIR": lambda: MIR(
            rows, candidates=job["candidates"], lr=job["lr"], rows=count, **CLASSES
        ),
        # Theirs mixes all exemplars once into the task's rows, which are as many a batch.
        "iCaRL": lambda: ICaRL(rows, rows=max(1, round(rows / 12000 * job["batch"]))),
        "GDumb": lambda: GDumb(
            rows, epochs=job["dumb_epochs"], batch=job["dumb_batch"], lr=job["lr"]
        ),
        "BiC": lambda: BiC(rows),
        # As many weights as theirs has in its encoder and decoder.
        "DGR": lambda: DGR(width=256, rows=count, lr=job["generator_lr"]),
    }  # fmt: skip
    return [made[name]()] if name in made else []


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    stream = class_incremental(
        load("fashion-mnist"), tasks=job["tasks"], batch=job["batch"], seed=job["seed"],
        validation=0.1 if job.get("on") == "valid" else 0.0,
    )  # fmt: skip
    kept = [task.valid if job.get("on") == "valid" else task.test for task in stream.tasks]
    tests = [part for part in kept if part is not None]
    if job["strategy"] in BOUNDS:
        stream = BOUNDS[job["strategy"]](stream)
    head: nn.Module = nn.Linear(400, 10)
    if job["strategy"] == "iCaRL":
        head = NearestMeanHead(head)
    model = Classifier(MLP(784, (400, 400)), head, Pixels())
    optimizer = SGD(model.parameters(), lr=job["lr"])
    used = strategies(job)
    learner = Learner(model, optimizer, used, seed=job["seed"])
    seconds, rows = 0.0, 0
    for number, task in enumerate(stream, 1):
        start = process_time()
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
        seconds += process_time() - start
        rows += len(task.train)
        if job["tests"] == "every" or number == len(stream):
            accuracy = fmean(evaluate(learner, tests, task_known=False))
    result = {
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "accuracy": accuracy,
        "bytes": state_bytes([strategy.state_dict() for strategy in used]),
        "versions": versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
