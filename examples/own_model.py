"""Wrap a model of your own, stop in the middle of a task, and go on as if nothing had happened.

    python examples/own_model.py

Five tasks of two digits each. A network written by hand learns them with replay and EWC. It is
stopped in the middle of the third task and loaded into new objects; at the end its weights are
compared, bit for bit, with those of a run that was never stopped.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong import EWC, Learner, Replay
from lifelong.core import checkpoint
from lifelong.streams import Stream, class_incremental, load


class DigitNet(nn.Module):
    """Nothing in here knows of continual learning. It takes bytes, as the memory keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 16, 3, padding=1)
        self.hidden = nn.Linear(16 * 4 * 4, 64)
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.convolution(x / 16)), 2)
        logits: Tensor = self.output(F.relu(self.hidden(x.flatten(1))))
        return logits


def parts() -> tuple[DigitNet, torch.optim.Optimizer, list[Replay | EWC]]:
    torch.manual_seed(0)
    net = DigitNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    return net, optimizer, [Replay(capacity=300), EWC(strength=10.0)]


def digits() -> Stream:
    return class_incremental(load("digits"), tasks=5, batch=16, epochs=4)


def learn(learner: Learner, stream: Stream, stop_after: int | None = None) -> None:
    """Learn from where the stream stands, to its end or until so many batches were observed."""
    for task in stream:
        learner.begin_task(task)  # does nothing for the task that is open already
        for batch in task:
            learner.observe(batch)
            if learner.batches == stop_after:
                return
        learner.end_task(task)


def accuracies(learner: Learner, stream: Stream) -> list[float]:
    return [
        (learner.predict(test.x).argmax(1) == test.y).float().mean().item() for test in stream.tests
    ]


def main() -> None:
    torch.set_num_threads(1)  # one thread, so that sums round the same way every time

    whole, stream = Learner(*parts()), digits()
    learn(whole, stream)
    told = "  ".join(f"{share:.0%}" for share in accuracies(whole, stream))
    print(f"accuracy on the tasks, first to last:  {told}")

    with TemporaryDirectory() as folder:
        path = Path(folder) / "half-way.safetensors"
        first, stream = Learner(*parts()), digits()
        learn(first, stream, stop_after=170)
        # The learner and the place in the stream belong together, so they go into one file.
        checkpoint.save(path, {"learner": first.state_dict(), "stream": stream.state_dict()})
        print(f"stopped at {stream.cursor}; the file has {path.stat().st_size / 1e3:.0f} kB")

        second, stream = Learner(*parts()), digits()
        state = checkpoint.load(path)
        second.load_state_dict(state["learner"])
        stream.load_state_dict(state["stream"])
        learn(second, stream)

    pairs = zip(whole.model.parameters(), second.model.parameters(), strict=True)
    same = all(torch.equal(one, other) for one, other in pairs)
    print(f"weights equal those of the run that never stopped, bit for bit: {same}")


if __name__ == "__main__":
    main()
