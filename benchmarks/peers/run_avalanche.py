"""Do the job of `benchmarks/peers.py` with Avalanche as shipped; runs in its environment.

Its own benchmark, data sets, loaders and strategies; images come as PIL ones and become tensors row
by row, as they do in all its examples. Its DER++ replays as many rows as are new, ours twice.
"""

from __future__ import annotations

import json
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
from avalanche.training.plugins import (  # type: ignore[import-not-found] # noqa: E402
    EvaluationPlugin,
)
from avalanche.training.supervised import (  # type: ignore[import-not-found] # noqa: E402
    DER,
    EWC,
    Naive,
    Replay,
)
from torchvision.transforms import ToTensor  # type: ignore[import-not-found] # noqa: E402


def strategy(job: dict[str, Any], model: nn.Module) -> Any:
    shared = {
        "model": model,
        "optimizer": SGD(model.parameters(), lr=job["lr"]),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": job["batch"],
        "train_epochs": 1,
        "eval_mb_size": job["test_batch"],
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True)),
    }
    if job["strategy"].startswith("EWC"):
        return EWC(ewc_lambda=job["ewc"] / 2, **shared)  # its penalty has no factor of a half
    if job["strategy"] == "replay":
        return Replay(mem_size=job["memory"], **shared)
    if job["strategy"] == "DER++":
        return DER(mem_size=job["memory"], alpha=job["alpha"], beta=job["beta"], **shared)
    return Naive(**shared)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
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
    seconds, rows = 0.0, 0
    for experience in benchmark.train_stream:
        start = process_time()
        learner.train(experience)
        seconds += process_time() - start
        rows += len(experience.dataset)
        metrics = learner.eval(benchmark.test_stream)
    # Tasks have equally many test rows, so the accuracy on all is the mean over tasks.
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    names = ("avalanche-lib", "torch", "torchvision", "numpy", "pillow")
    versions = {name: version(name) for name in names} | {"python": python_version()}
    result = {"rows_per_second": rows / seconds, "accuracy": accuracy, "versions": versions}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
