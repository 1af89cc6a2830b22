"""PackNet: each task keeps the largest weights of those that are free, and leaves the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from lifelong.core.batch import Batch
from lifelong.core.errors import NonFiniteLoss, NothingLeftToLearn, UnknownName
from lifelong.core.faults import hidden_labels, nothing_to_learn
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets.packed import Packed
from lifelong.strategies.tuning import check_training

OPTIMIZERS = ("sgd", "adam")
"""What a task can be retrained by."""


class PackNet(Strategy):
    """At a task's end free the smallest of its weights in each layer, and retrain the others.

    own_t <- own_t without the share `prune` of smallest |w|;  then `epochs` of SGD on own_t
    Mallya & Lazebnik 2018, arXiv:1711.05769.

    The model must be a `Packed` one, which keeps each task's weights from all later ones and shows
    a task its own weights alone. Each task gets (1 - prune) of what is free, so that what it gets
    halves from task to task with `prune=0.5`. With `tasks`, each of so many gets an equal part of
    the weights instead. The paper retrains for half as many epochs as it trained before, on
    batches drawn anew; here the task's batches come again as they are. A task is pruned once, when
    it is first consolidated. Strategies beside it do not act on the steps of the retraining.

    Args:
        prune: the share of its weights that a task frees, from 0 to below 1.
        tasks: how many tasks to divide the weights among equally; None to go by `prune`.
        epochs: of retraining.
        lr: of retraining.
        optimizer: of retraining, "sgd" with momentum 0.9 as in the paper, or "adam".

    Raises:
        ValueError: an argument out of range, or a model that is not `Packed`.
        UnknownName: there is no such optimizer.
        NothingLeftToLearn: from the first step of a task that finds no weight free; from its end,
            with rows that nothing learns from, such as an earlier task's.
        LabelOutsideHead: at a task's end, a label whose output is hidden from the row's task.
        NonFiniteLoss: retraining diverged.

    Example:
        >>> PackNet(tasks=10).share(place=0), PackNet(tasks=10).share(place=9)
        (0.9, 0.0)
    """

    state: ClassVar[tuple[str, ...]] = ("pruned",)

    def __init__(
        self,
        prune: float = 0.75,
        *,
        tasks: int | None = None,
        epochs: int = 1,
        lr: float = 0.01,
        optimizer: str = "sgd",
    ) -> None:
        if not 0 <= prune < 1:
            raise ValueError(f"prune is {prune}; it must be 0 or more, and below 1")
        if tasks is not None and tasks < 1:
            raise ValueError(f"tasks is {tasks}; it must be 1 or more, or None")
        check_training(epochs, 1, lr)
        if optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", optimizer, OPTIMIZERS)
        self.prune = prune
        self.tasks = tasks
        self.epochs = epochs
        self.lr = lr
        self.optimizer = optimizer
        self.pruned = 0
        """How many tasks have been pruned and retrained."""
        self._checked = 0

    def share(self, place: int) -> float:
        """What share of its weights the task at this place among all frees."""
        if self.tasks is None:
            return self.prune
        return 1 - 1 / max(self.tasks - place, 1)

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """See that the task has weights to learn with, once a task."""
        net = packed(learner)
        if self._checked != len(net.ids):
            if net.ids and not net.newest:
                more = f"prune more than {self.prune:.2f} of each"
                if self.tasks is not None:
                    more = f"divide them among more than {self.tasks} tasks from the start"
                raise NothingLeftToLearn(
                    f"all weights belong to the {len(net.ids) - 1} tasks before task "
                    f"{net.ids[-1]}; {more}, take wider layers, or begin a new model"
                )
            self._checked = len(net.ids)
        return batch

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Prune the task that ends, and retrain what is left to it."""
        net = packed(learner)
        if self.pruned == len(net.ids) or net.free:
            return  # pruned already: tasks before leave nothing free when another begins
        net.prune(self.share(len(net.ids) - 1))
        optimizer: Optimizer
        if self.optimizer == "adam":
            optimizer = Adam(learner.parameters.values(), lr=self.lr)
        else:
            optimizer = SGD(learner.parameters.values(), lr=self.lr, momentum=0.9)
        loss = torch.zeros(())
        for epoch in range(self.epochs):
            for batch in data:
                optimizer.zero_grad()
                output = learner.output(batch)
                loss = learner.mean_loss(output, batch)
                if not epoch:  # the same rows come again
                    _check_rows(learner, batch, output, loss)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        optimizer.zero_grad()
        # Whatever is not finite once stays so in the weights, and in the last loss.
        if not bool(loss.isfinite()):
            raise NonFiniteLoss(
                f"the loss of retraining is not finite after {self.epochs} epochs; lower the "
                f"strategy's learning rate, {self.lr}"
            )
        self.pruned = len(net.ids)


def _check_rows(learner: Learner, batch: Batch, output: Any, loss: Tensor) -> None:
    """Refuse rows that a step refuses, too."""
    if not loss.requires_grad:
        raise nothing_to_learn(batch, learner.current)
    if (hidden := hidden_labels(batch, output)) is not None:
        raise hidden


def packed(learner: Learner) -> Packed:
    """Find the packed network of a learner.

    Raises:
        ValueError: there is none.
    """
    found = next((m for m in learner.model.modules() if isinstance(m, Packed)), None)
    if found is None:
        raise ValueError(
            f"PackNet needs a packed network, and the model is {type(learner.model).__name__}; "
            "wrap it: lifelong.nets.Packed(model)"
        )
    return found
