"""Small learners, and what is compared of them."""

import torch
from torch import nn
from torch.optim import SGD

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets import GrowingHead


def batches(count, rows=8, features=6, classes=4, seed=0, task=0):
    chance = torch.Generator().manual_seed(seed)
    return [
        Batch.of(
            torch.randn(rows, features, generator=chance),
            torch.randint(classes, (rows,), generator=chance),
            task,
        )
        for _ in range(count)
    ]


def net(seed=0, dropout=0.3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 4)
    )


def growing(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), GrowingHead(12)
    )


def learner(model=None, strategies=(), optimizer=None, **settings):
    model = net() if model is None else model
    optimizer = optimizer or SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Learner(model, optimizer, strategies, **settings)


def flat(value, name=""):
    """Name every leaf of a state; tensors become lists of bytes, so that NaN equals itself."""
    if isinstance(value, torch.Tensor):
        bits = value.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
        return {name: (value.dtype, value.shape, bits)}
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {name: repr(value)}
    found = {}
    for key, part in parts:
        found |= flat(part, f"{name}/{key}")
    return found


def whole(learner):
    """Everything that must survive an error: the state, the modes and the global generator."""
    return {
        **flat(learner.state_dict()),
        "modes": [module.training for module in learner.model.modules()],
        "gradients": flat([p.grad for p in learner.model.parameters()]),
        "global": torch.get_rng_state().tolist(),
    }


class Noisy(Strategy):
    """Act at every moment, with randomness and state of its own."""

    state = ("steps", "total", "closed")

    def __init__(self):
        self.steps = 0
        self.total = torch.zeros(3)
        self.closed = []

    def extend(self, learner, batch):
        index = torch.randint(len(batch), (3,), generator=self.generator)
        return batch.extended(batch.rows(index))

    def penalty(self, learner, batch, output):
        return 0.01 * output.square().mean() * torch.rand(1, generator=self.generator)[0]

    def project(self, learner):
        for p in learner.parameters.values():
            if p.grad is not None:
                p.grad.mul_(0.9)

    def after_step(self, learner, batch, output):
        self.steps += 1
        self.total = self.total + torch.rand(3, generator=self.generator)

    def consolidate(self, learner, data):
        self.closed = [*self.closed, sum(len(batch) for batch in data)]
