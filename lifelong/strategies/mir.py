"""MIR: replay the rows that learning the new ones would harm most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import InvalidBatch
from lifelong.core.faults import nothing_to_learn
from lifelong.core.forward import forward
from lifelong.core.learner import Learner
from lifelong.core.loss import reduce
from lifelong.core.undisturbed import undisturbed
from lifelong.strategies.er_ace import counted
from lifelong.strategies.replay import Replay


class MIR(Replay):
    """Of several times as many candidates, replay those whose loss a step on new rows raises most.

    ahead = weights - lr * gradient of the mean loss of the new rows
    interference(row) = loss(row; ahead) - loss(row; weights)
    loss = mean loss of the new rows + mean loss of the most interfered candidates
    Aljundi et al. 2019, arXiv:1908.04742 (maximally interfered retrieval, ER-MIR).

    The step is only imagined: in eval mode, so dropout and batch norm do not disturb the
    comparison, and with a learning rate of its own, as a strategy does not know the optimizer.
    The two means are added, as in the authors' code, so at an equal learning rate steps are about
    twice those of `Replay`. The authors leave rows of the present task out of the candidates;
    fill="task" does so. Strategies behind it see replayed rows with the weight 0. New rows count in
    the imagined step by the weights that they come with; where none counts, as behind a strategy
    that takes their loss over (`ERACE`), each counts 1 there.

    Args:
        capacity: how many rows the memory holds, or bytes such as "10MB".
        candidates: how many times as many rows as are replayed are looked at.
        lr: of the imagined step.
        **settings: as in `Replay`.

    Raises:
        ValueError: fewer candidates than 1, or a learning rate that is not positive.
        NothingLeftToLearn: from the step, new rows whose loss nothing that trains has a part in.

    Example:
        >>> MIR(capacity=500).candidates
        5
    """

    row_losses = True

    def __init__(
        self, capacity: int | str = 500, *, candidates: int = 5, lr: float = 0.05, **settings: Any
    ) -> None:
        super().__init__(capacity, **settings)
        if candidates < 1:
            raise ValueError(f"candidates is {candidates}; it must be 1 or more")
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr is {lr}; it must be positive, such as the optimizer's")
        self.candidates = candidates
        self.lr = lr
        self._replayed = slice(0, 0)

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append the most interfered of the candidates; their loss is left to `penalty`."""
        count = self.rows or batch.new
        self._replayed = slice(0, 0)
        drawn = self.draw(learner, batch, rows=count * self.candidates)
        if not drawn:
            return batch
        pool = batch_of_columns(drawn)
        if len(pool) > count:
            new = batch.rows(slice(batch.new))
            pool = pool.rows(self.interference(learner, new, pool).topk(count).indices)
        self._replayed = slice(len(batch), len(batch) + len(pool))
        nothing = torch.zeros(len(pool), device=batch.y.device)
        return batch.extended(replace(pool, weight=nothing))

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """The mean loss of the replayed rows."""
        where = self._replayed
        if where.start == where.stop:
            return 0.0
        if not isinstance(output, Tensor):
            raise InvalidBatch(f"the output is {type(output).__name__}; it must be one tensor")
        return learner.mean_loss(output[where], replace(batch.rows(where), weight=None))

    def interference(self, learner: Learner, new: Batch, pool: Batch) -> Tensor:
        """How much a step on the new rows would raise the loss of each row of the pool.

        Returns:
            (rows,), detached.

        Raises:
            NothingLeftToLearn: nothing that trains has a part in the loss of the new rows.
        """
        new = new if new.weight is None else replace(new, weight=counted(new))
        model, aware = learner.model, learner.task_aware

        def losses(rows: Batch, weights: Mapping[str, Tensor]) -> Tensor:
            def call(*inputs: Tensor, **named: Tensor) -> Any:
                return functional_call(model, dict(weights), inputs, named)

            with learner.autocast():
                output = forward(call, rows.x, rows.task if aware else None)
            return learner.loss(output, rows)

        now = dict(learner.parameters)
        with undisturbed(model):
            loss = reduce(losses(new, now), new)
            if not loss.requires_grad:
                raise nothing_to_learn(new, learner.current)
            gradients = torch.autograd.grad(loss, list(now.values()), allow_unused=True)
            with torch.no_grad():
                moved = zip(now.items(), gradients, strict=True)
                ahead = {n: p if g is None else p - self.lr * g for (n, p), g in moved}
                grown = losses(pool, ahead) - losses(pool, now)
        return grown
