"""Write a strategy of your own, have it checked, and compare it.

    python examples/own_strategy.py

It replays rows without keeping any: of each class it counts the rows and keeps the mean and the
spread of every input, and draws made-up rows from the normal distribution that these describe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lifelong import Batch, Learner, Strategy
from lifelong.checks import check_strategy
from lifelong.nets import MLP, Classifier, Pixels
from lifelong.streams import class_incremental, load


class ClassSketch(Strategy):
    """Replay rows drawn from a normal distribution of each class, with independent inputs.

    x ~ N(mean_c, var_c) for each class c met so far, as many rows as are new

    A sum over rows cannot be taken apart again, so `forget` has nothing that it could drop: what
    is kept are two sums a class and input, not rows. Mind that a class of one row is its mean.
    """

    state: ClassVar[tuple[str, ...]] = ("about", "sums")

    def __init__(self) -> None:
        self.about = torch.zeros(0, 2, dtype=torch.int64)  # (classes, 2): rows, latest task
        self.sums = torch.zeros(0)  # (classes, 2, ...): of the inputs and of their squares

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append made-up rows; like all chance in a strategy, theirs is `self.generator`'s."""
        if not len(self.about) or not isinstance(batch.x, Tensor):
            return batch
        count = self.about[:, 0].clamp(min=1).view(-1, 1, *[1] * (self.sums.ndim - 2))
        mean, square = (self.sums / count).unbind(1)
        spread = (square - mean.square()).clamp(min=0).sqrt()
        known = self.about[:, 0].nonzero().flatten()
        y = known[torch.randint(len(known), (batch.new,), generator=self.generator)]
        x = mean[y] + spread[y] * torch.randn(mean[y].shape, generator=self.generator)
        if not batch.x.is_floating_point():
            x = x.round().clamp(min=0)
        drawn = Batch.of(x.to(batch.x.dtype), y, self.about[y, 1])
        return batch.extended(drawn.to(learner.device))

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Count the new rows in."""
        del learner, output
        assert isinstance(batch.x, Tensor)
        x, y = batch.x[: batch.new].cpu().double(), batch.y[: batch.new].cpu()
        self._widen(int(y.max()) + 1, x.shape[1:])
        self.sums.index_add_(0, y, torch.stack((x, x.square()), 1).to(self.sums.dtype))
        self.about[:, 0] += y.bincount(minlength=len(self.about))
        self.about[y, 1] = batch.task[: batch.new].cpu()

    def _widen(self, classes: int, shape: Sequence[int]) -> None:
        more = classes - len(self.about)
        if more > 0:
            kept = self.sums if len(self.about) else torch.zeros(0, 2, *shape, dtype=torch.float64)
            empty = torch.zeros(more, 2, *shape, dtype=torch.float64)
            self.sums = torch.cat((kept, empty))
            self.about = torch.cat((self.about, torch.zeros(more, 2, dtype=torch.int64)))


def average_accuracy(strategies: list[Strategy]) -> float:
    stream = class_incremental(load("digits"), tasks=5, batch=16, epochs=3)
    torch.manual_seed(0)
    net = Classifier(MLP(64, hidden=(100,)), nn.Linear(100, 10), front=Pixels(scale=16))
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=0.05), strategies)
    for task in stream:
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
    right = [(learner.predict(t.x).argmax(1) == t.y).float().mean().item() for t in stream.tests]
    return sum(right) / len(right)


def main() -> None:
    torch.set_num_threads(1)  # tensors this small gain nothing from more
    check_strategy(ClassSketch)  # raises, and says what to do, if a promise is broken
    print("ClassSketch keeps every promise of a strategy")
    print(f"plain training  {average_accuracy([]):.0%} on average over all five tasks")
    print(f"ClassSketch     {average_accuracy([ClassSketch()]):.0%}, without keeping a single row")


if __name__ == "__main__":
    main()
