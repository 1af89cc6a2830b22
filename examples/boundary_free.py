"""Learn for ever, without tasks: predict each row first, learn from it afterwards.

    python examples/boundary_free.py

The accuracy of these predictions (prequential accuracy) is the honest one on a stream: every row
is tested on before it is learned from. The data turn by 90 degrees, back, and once more.
"""

from __future__ import annotations

import torch
from torch.optim import SGD

from lifelong import EWC, Learner, Replay, Strategy
from lifelong.memory import Ring
from lifelong.nets import MLP
from lifelong.streams import Stream, gaussians

ROWS, WINDOW, STOP = 6000, 500, 1000


def drifting() -> Stream:
    return gaussians(
        ROWS, kind="recurring", motion="rotation", magnitude=90, at=(0.25, 0.5, 0.75), batch=20
    )


def recent_rows() -> Strategy:
    """Replay of the latest 100 rows alone: older ones may have become wrong."""
    latest = Replay(capacity=100, policy="ring", by="task")
    assert isinstance(latest.memory.policy, Ring)
    return latest


def prequential(strategies: list[Strategy], stop: int = ROWS, every: int = 0) -> list[float]:
    """Measure the accuracy in each window of rows, learning up to row `stop`.

    `every` so many batches the strategies consolidate on what came since, as at a task's end.
    """
    torch.manual_seed(0)
    net = MLP(2, hidden=(32,), outputs=3)
    learner = Learner(net, SGD(net.parameters(), lr=0.1), strategies)
    right, recent = [], []
    for batch in drifting().tasks[0]:
        right.append(learner.predict(batch.x).argmax(1) == batch.y)
        if learner.batches * len(batch) < stop:
            learner.observe(batch)
            recent.append(batch)
        if every and len(recent) == every:
            learner.consolidate(recent)
            recent = []
    return torch.cat(right).float().view(-1, WINDOW).mean(1).tolist()


def main() -> None:
    torch.set_num_threads(1)
    runs = {
        f"stops learning at row {STOP}": prequential([], stop=STOP),
        "goes on learning": prequential([]),
        "and replays all the past": prequential([Replay(capacity=1000)]),
        "and replays the latest 100 rows": prequential([recent_rows()]),
        "and EWC, every 25 batches": prequential([EWC(strength=1.0, decay=0.9)], every=25),
    }
    changes = ", ".join(str(change.start) for change in drifting().drift)
    print(f"accuracy on rows not yet learned from, {WINDOW} rows a column; changes at {changes}\n")
    for name, windows in runs.items():
        told = " ".join(f"{share:4.0%}" for share in windows)
        print(f"{name:32} {told}   all {sum(windows) / len(windows):.1%}")


if __name__ == "__main__":
    main()
