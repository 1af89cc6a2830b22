"""Learning a few small tasks, and what old ones answer meanwhile: shared by tests of networks."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam, AdamW

from lifelong import Batch, Learner, TaskSpec

OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum and decay": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "fused adam": lambda p: Adam(p, lr=0.01, fused=True),
}


class Average(nn.Module):
    """Take away the average of the rows so far, which training moves."""

    def __init__(self, features):
        super().__init__()
        self.register_buffer("average", torch.zeros(features))

    def forward(self, x):
        if self.training:
            self.average.lerp_(x.detach().mean(0), 0.1)
        return x - self.average


BUFFERED = {
    name: lambda first=first: nn.Sequential(
        first(), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2)
    )
    for name, first in {
        "average": lambda: nn.Sequential(nn.Linear(6, 12), Average(12)),
        "power iteration": lambda: parametrizations.spectral_norm(nn.Linear(6, 12)),
        "hook": lambda: nn.utils.spectral_norm(nn.Linear(6, 12)),
    }.items()
}
"""Networks with buffers that training moves, though no norm keeps statistics in them."""


def task_batches(task, shape=(6,), batches=5, rows=8):
    """Batches of two classes, the same two in every task, which are told apart otherwise."""
    chance = torch.Generator().manual_seed(task)
    direction = torch.randn(shape, generator=chance)
    found = []
    for _ in range(batches):
        x = torch.randn(rows, *shape, generator=chance)
        y = ((x * direction).flatten(1).sum(1) > 0).long()
        found.append(Batch.of(x, y, task))
    return found


def learner_on(model, strategies=(), optimizer="sgd"):
    return Learner(model, OPTIMIZERS[optimizer](model.parameters()), strategies)


def learn_task(learner, task, shape=(6,), classes=(0, 1)):
    batches = [Batch.of(b.x, torch.tensor(classes)[b.y], task) for b in task_batches(task, shape)]
    learner.begin_task(TaskSpec(task, classes))
    for batch in batches:
        learner.observe(batch)
    learner.end_task(batches)


def answers_stay(learner, tasks=4, shape=(6,)):
    """Learn tasks, and after each compare all earlier tasks' answers, bit for bit."""
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(99))
    told = {}
    for task in range(tasks):
        learn_task(learner, task, shape)
        for old, answer in told.items():
            assert torch.equal(learner.predict(x, old), answer), f"task {old} after {task}"
        told[task] = learner.predict(x, task)
    assert len({answer.numpy().tobytes() for answer in told.values()}) == tasks
    return told, x


def expect_module_alone_answers(learner, fresh: nn.Module, told, x):
    """The module regrown and filled with the state answers the same without a learner."""
    for task in learner.tasks:
        for module in list(fresh.modules()):
            if hasattr(module, "grow"):
                module.grow(task)
    fresh.load_state_dict(copy.deepcopy(learner.model.state_dict()))
    fresh.eval()
    for task, answer in told.items():
        with torch.no_grad():
            assert torch.equal(fresh(x, task=torch.full((len(x),), task)), answer)


def expect_mixed_rows_answered(learner, told, x):
    tasks = torch.arange(len(x)) % len(told)
    mixed = learner.predict(x, tasks)
    for i, task in enumerate(tasks.tolist()):
        torch.testing.assert_close(mixed[i], told[task][i])
