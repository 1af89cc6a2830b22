"""Do the job of `benchmarks/peers.py` with Avalanche as shipped; runs in its environment.

Its own benchmark, data sets, loaders and strategies; images come as PIL ones and become tensors row
by row, as they do in all its examples. Its DER++ replays as many rows as are new, ours twice.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.metadata import version
from platform import python_version
from time import process_time
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

# torchvision without its compiled part declares kernels for two operators, which then have to
# be there; and a logger nobody asked for wants wandb.
operators: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
for operator in ("nms", "qnms"):
    operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
sys.modules["wandb"] = ModuleType("wandb")

from avalanche.benchmarks.classic import SplitFMNIST  # type: ignore[import-not-found] # noqa: E402
from avalanche.evaluation.metrics import (  # type: ignore[import-not-found] # noqa: E402
    accuracy_metrics,
)
from avalanche.training import supervised  # type: ignore[import-not-found] # noqa: E402
from avalanche.training.plugins import (  # type: ignore[import-not-found] # noqa: E402
    EvaluationPlugin,
)
from torchvision.transforms import ToTensor  # type: ignore[import-not-found] # noqa: E402


def settings(job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name the strategy of a job and what it is given beside the model and the loops."""
    memory = {"mem_size": job["memory"]}
    replayed = memory | {"batch_size_mem": job["replayed"]}
    each = {"patterns_per_exp": job["memory"] // job["tasks"]}
    ewc = {"ewc_lambda": job["ewc"] / 2}  # its penalty has no factor of a half
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "EWC": ("EWC", ewc),
        "EWC, 1000 rows": ("EWC", ewc),
        "online EWC": ("EWC", ewc | {"mode": "online", "decay_factor": job["decay"]}),
        # Its penalty has a factor of a half here.
        "SI": ("SynapticIntelligence", {"si_lambda": 2 * job["si"], "eps": job["damping"]}),
        "MAS": ("MAS", {"lambda_reg": job["mas"]}),
        "LwF": ("LwF", {"alpha": job["lwf"], "temperature": job["temperature"]}),
        "GEM": ("GEM", each | {"memory_strength": job["margin"]}),
        "A-GEM": ("AGEM", each | {"sample_size": job["reference"]}),
        "replay": ("Replay", memory),
        "DER": ("DER", replayed | {"alpha": job["alpha"], "beta": 0.0}),
        "DER++": ("DER", replayed | {"alpha": job["alpha"], "beta": job["beta"]}),
        "ER-ACE": ("ER_ACE", replayed),
        "MIR": ("MIR", replayed | {"subsample": job["candidates"] * job["replayed"]}),
        "GDumb": ("GDumb", memory),
        "BiC": ("BiC", memory),
        # Its generator is its own: 784-400-128-2-64-128-256-784, Adam of `generator_lr`.
        "DGR": ("GenerativeReplay", {}),
        "joint": ("JointTraining", {}),
        "cumulative": ("Cumulative", {}),
    }
    return found.get(job["strategy"], ("Naive", {}))


def strategy(job: dict[str, Any], model: nn.Sequential) -> Any:
    shared = {
        "optimizer": SGD(model.parameters(), lr=job["lr"]),
        "train_mb_size": job["batch"],
        "train_epochs": 1,
        "eval_mb_size": job["test_batch"],
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True)),
    }
    if job["strategy"] == "iCaRL":
        # It would turn images around, which it can only do to those of three dimensions.
        return supervised.ICaRL(
            feature_extractor=model[:-1],
            classifier=model[-1],
            memory_size=job["memory"],
            buffer_transform=None,
            fixed_memory=True,
            **shared,
        )
    if job["strategy"] == "GDumb":  # which trains on its memory alone
        shared |= {"train_epochs": job["dumb_epochs"], "train_mb_size": job["dumb_batch"]}
    name, own = settings(job)
    return getattr(supervised, name)(model=model, criterion=nn.CrossEntropyLoss(), **shared, **own)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    random.seed(job["seed"])  # A-GEM's choice of rows
    benchmark = SplitFMNIST(
        job["tasks"],
        shuffle=False,
        train_transform=ToTensor(),
        eval_transform=ToTensor(),
        dataset_root=job["data"],
    )
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 400), nn.ReLU()),
        *(nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)),
    )
    learner = strategy(job, model)
    whole = [benchmark.train_stream] if job["strategy"] == "joint" else benchmark.train_stream
    lengths = [len(experience.dataset) for experience in benchmark.train_stream]
    seconds, rows = 0.0, 0
    for number, experience in enumerate(whole, 1):
        start = process_time()
        learner.train(experience)
        seconds += process_time() - start
        if job["strategy"] == "joint":
            rows = sum(lengths)
        elif job["strategy"] == "cumulative":
            rows += sum(lengths[:number])
        else:
            rows += lengths[number - 1]
        if job["tests"] == "every" or number == len(whole):
            metrics = learner.eval(benchmark.test_stream)
    # Tasks have equally many test rows, so the accuracy on all is the mean over tasks.
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    names = ("avalanche-lib", "torch", "torchvision", "numpy", "pillow")
    result = {
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "accuracy": accuracy,
        "versions": {name: version(name) for name in names} | {"python": python_version()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
