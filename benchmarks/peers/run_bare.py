"""Do the job of `benchmarks/peers.py` with nothing but tensors: the unit of its speeds."""

from __future__ import annotations

import json
import sys
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from lifelong.bench.job import versions
from lifelong.streams import load


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    data = load("fashion-mnist")
    assert isinstance(data.train_x, Tensor)
    assert isinstance(data.test_x, Tensor)
    x, y = data.train_x.flatten(1) / 255, data.train_y
    test_x, test_y = data.test_x.flatten(1) / 255, data.test_y
    model = nn.Sequential(
        *(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
    )
    optimizer = SGD(model.parameters(), lr=job["lr"])
    seconds, rows = 0.0, 0
    for own in torch.arange(10).chunk(job["tasks"]):
        start = process_time()
        mine = torch.isin(y, own).nonzero().flatten()
        order = mine[torch.randperm(len(mine))]
        for at in range(0, len(order), job["batch"]):
            index = order[at : at + job["batch"]]
            loss = F.cross_entropy(model(x[index]), y[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        seconds += process_time() - start
        rows += len(mine)
        with torch.no_grad():
            places = range(0, len(test_x), job["test_batch"])
            parts = [model(test_x[i : i + job["test_batch"]]).argmax(1) for i in places]
        accuracy = (torch.cat(parts) == test_y).double().mean().item()
    result = {"rows_per_second": rows / seconds, "accuracy": accuracy, "versions": versions()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
