"""Mean teacher: consistency with a slow average of the model itself."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets.analytic import AnalyticHead
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.teacher import (
    Frozen,
    Rows,
    answers,
    checked_rows,
    chosen,
    listed,
)


class MeanTeacher(Strategy):
    """Hold the answers to replayed rows to those of a running average of the model.

    penalty  = strength * mean over rows and outputs of (output - average model's output)**2
    average <- d * average + (1 - d) * weights after each step n, d = min(1 - 1 / (n + 1), decay)
    Tarvainen & Valpola 2017, arXiv:1703.01780; on replayed rows it is the Mean-ER of Arani,
    Sarfraz & Zonooz 2022, arXiv:2201.12604 (CLS-ER), to be put beside a `Replay`.

    It needs no boundaries. CLS-ER averages at a random share of the steps, here at each: the
    average is the same in expectation with a decay closer to 1. Running statistics of
    normalisation are averaged too, and the teacher normalises by them, in eval mode. The sums of a
    computed head (`AnalyticHead`) are not: the teacher answers by its `logits`, as the model does
    while it learns. Their second average, and prediction by an average, are left out.

    Args:
        strength: of the penalty.
        decay: how slow the average is; 0.999 follows the last thousand steps.
        rows: which to compare: "new", "replayed" or "all".

    Raises:
        ValueError: a negative strength, a decay outside 0 to 1, or other rows.
        InvalidBatch: the model gives no tensor of shape (rows, outputs).

    Example:
        >>> MeanTeacher(strength=0.1).decay
        0.999
    """

    state: ClassVar[tuple[str, ...]] = ("average", "width", "seen")

    def __init__(
        self, strength: float = 0.1, *, decay: float = 0.999, rows: Rows = "replayed"
    ) -> None:
        self.strength = checked_strength(strength)
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must be 0 or more, and below 1")
        self.decay = decay
        self.rows = checked_rows(rows)
        self.average: dict[str, Tensor] = {}
        self.width = 0
        """How many outputs the average has."""
        self.seen = 0
        """The last step that has been averaged."""
        self._frozen = Frozen()

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Squared distance to the average's answers, on the outputs that it has."""
        output = listed(output, "MeanTeacher compares them one by one")
        where = chosen(batch, self.rows)
        if not self.average or where.start == where.stop:
            return 0.0
        teacher = self._frozen.of(learner, self.average)
        taught = answers(learner, teacher, batch.rows(where))[:, : self.width].float()
        return self.strength * F.mse_loss(output[where, : self.width].float(), taught)

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Move the average towards the new weights, if a step has been taken."""
        del batch
        if learner.steps == self.seen:
            return
        self.seen, self.width = learner.steps, output.shape[1]
        own = _averaged(learner.model)
        if own.keys() != self.average.keys():  # at first, and when the model has grown
            present = {name: tensor.detach().clone() for name, tensor in own.items()}
            self.average = {n: self.average.get(n, tensor) for n, tensor in present.items()}
        weight = 1 - min(1 - 1 / (learner.steps + 1), self.decay)
        held = [(self.average[name], now) for name, now in own.items()]
        moving = [(mean, now) for mean, now in held if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in moving], [now for _, now in moving], weight)
        for mean, now in held:  # counts, such as the batches that normalisation has seen
            if not mean.is_floating_point():
                mean.copy_(now)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Name the parameters and buffers of a model, but for the sums of a computed head.

    Averaged, they would be those of no rows. A teacher that lacks them has seen none, and answers
    as such a head does in training.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    heads = [module for module in model.modules() if isinstance(module, AnalyticHead)]
    if not heads:
        return own
    sums = {
        id(tensor)
        for head in heads
        for name, tensor in (*head.named_parameters(), *head.named_buffers())
        if not name.startswith("logits.")
    }
    return {name: tensor for name, tensor in own.items() if id(tensor) not in sums}
