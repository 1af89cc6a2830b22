"""Erase rows that somebody wants to have back, from the memory and from the next checkpoint.

    python examples/erase_rows.py

Each row of a stream has an id, its key. `learner.forget(keys)` drops these rows from wherever
strategies keep them. The weights stay as they are: see docs/limits.md for what that means.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.optim import SGD

from lifelong import DERpp, Learner, Replay
from lifelong.nets import MLP, Classifier, Pixels
from lifelong.streams import class_incremental, load


def kept(learner: Learner) -> Tensor:
    """Collect the ids of all rows that strategies keep."""
    memories = [part.memory for part in learner.strategies if isinstance(part, Replay)]
    return torch.cat([memory.all()["key"] for memory in memories])


def found_in(path: Path, rows: Tensor) -> int:
    """Count the rows whose very bytes are somewhere in a file."""
    content = path.read_bytes()
    return sum(row.numpy().tobytes() in content for row in rows)


def main() -> None:
    torch.set_num_threads(1)
    data = load("digits")
    stream = class_incremental(data, tasks=5, batch=16)
    net = Classifier(MLP(64, hidden=(50,)), nn.Linear(50, 10), front=Pixels(scale=16))
    learner = Learner(net, SGD(net.parameters(), lr=0.05), [DERpp(capacity=300)])
    for task in stream:
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)

    # A key is the row's number in the data set. Every third row that is kept shall go.
    unwanted = kept(learner)[::3]
    assert isinstance(data.train_x, Tensor)
    pixels = data.train_x[unwanted]
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.safetensors", Path(folder) / "after.safetensors"
        learner.save(before)
        print(f"{len(kept(learner))} rows kept; {found_in(before, pixels)} of the {len(unwanted)}")
        print("unwanted ones are in the checkpoint, pixel by pixel")
        learner.forget(unwanted)
        learner.save(after)
        left = torch.isin(kept(learner), unwanted).sum().item()
        print(f"after forget(): {len(kept(learner))} rows kept, {left} of the unwanted ones, and")
        print(f"{found_in(after, pixels)} in the new checkpoint; delete the old one yourself")

    batch = next(iter(stream.tasks[0]))
    fresh = batch.rows(~torch.isin(batch.key, unwanted))
    learner.observe(fresh)
    print("learning goes on")


if __name__ == "__main__":
    main()
