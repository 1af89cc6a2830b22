"""Prioritized replay: rows that the model finds hard are replayed more often, and stay longer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.learner import Learner
from lifelong.memory import LossAware
from lifelong.strategies.replay import Replay
from lifelong.strategies.teacher import listed

UNIFORM = 0.1
"""The share of draws that are uniform, so that no row's weight exceeds 10."""


class Prioritized(Replay):
    """Replay rows in proportion to their loss, or to the model's doubt, when last looked at.

    P(i) = 0.9 * score_i**sharpness / sum_j score_j**sharpness + 0.1 / rows held
    weight_i = 1 / (rows held * P(i))**correction, divided by its mean over draws
    Schaul et al. 2016, arXiv:1511.05952 (prioritized experience replay; sharpness is alpha,
    correction is beta).

    With correction 1 the weighted loss of the replayed rows has the mean loss of the memory for
    its expectation, and all that priority changes is the noise; with 0 hard rows count for more.
    The weights' mean is 1, where the paper divides by their maximum, so that replayed rows
    together count as much as new ones; the tenth of uniform draws is in place of its small
    constant, and bounds the weights. Rows are drawn with replacement. Those that stay are chosen
    by the same scores (`LossAware`), and new ones count as the highest until they are replayed.

    A wrong label has a high loss for ever: see `CleanReplay`.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take.
        sharpness: 0 draws uniformly, 1 in proportion to the score.
        correction: 0 leaves the rows' weights at 1, 1 undoes the bias of the draw.
        score: "loss", or "entropy" of the softmax of the outputs, which needs no labels.
        **settings: as in `Replay`, but for the policy.

    Raises:
        ValueError: a sharpness or correction out of range, or an unknown score.
        InvalidBatch: from the step, outputs without classes to have an entropy.

    Example:
        >>> Prioritized(capacity=200, sharpness=1.0).memory.policy.name
        'loss-aware'
    """

    own_pace: ClassVar[bool] = True
    row_losses = True

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        sharpness: float = 0.6,
        correction: float = 1.0,
        score: Literal["loss", "entropy"] = "loss",
        **settings: Any,
    ) -> None:
        if not 0 <= sharpness < float("inf"):
            raise ValueError(f"sharpness is {sharpness}; it must be 0 or more")
        if not 0 <= correction <= 1:
            raise ValueError(f"correction is {correction}; it must lie between 0 and 1")
        if score not in ("loss", "entropy"):
            raise ValueError(f"score is {score!r}; choose 'loss' or 'entropy'")
        if settings.get("policy", "reservoir") not in ("reservoir", "loss-aware"):
            raise ValueError(f"policy is {settings['policy']!r}; leave it out: it is by score here")
        super().__init__(capacity, **{**settings, "policy": "loss-aware"})
        self.sharpness, self.correction, self.score = sharpness, correction, score
        self._slots = torch.empty(0, dtype=torch.int64)
        self._scores: Tensor | None = None
        self._drawn = slice(0, 0)

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append rows drawn by their scores, with the weights that make up for it."""
        self.check(learner, batch)
        self._slots, self._scores = self._slots[:0], None
        if not self.due(learner):
            return batch
        held = len(self.memory)
        chance = self._chances()
        spots = torch.rand(self.rows or batch.new, generator=self.generator, dtype=torch.float64)
        # Rounding may leave the sum below 1, and a spot beyond it.
        self._slots = torch.searchsorted(chance.cumsum(0), spots).clamp(max=held - 1)
        weight = (held * chance) ** -self.correction
        weight = weight / (chance * weight).sum()
        drawn = self.memory.read(self._slots)
        drawn["weight"] = weight[self._slots].float()
        columns = {name: column.to(learner.device) for name, column in drawn.items()}
        longer = batch.extended(batch_of_columns(columns))
        self._drawn = slice(len(batch), len(longer))
        return longer

    @torch.no_grad()
    def penalty(self, learner: Learner, batch: Batch, output: Any) -> float:
        """Add nothing; look at how hard the replayed rows are, if there are any."""
        if self.score == "entropy":
            output = listed(output, 'score="entropy" is over classes (score="loss" needs none)')
        if not len(self._slots):
            return 0.0
        if self.score == "entropy":
            logs = output[self._drawn].float().log_softmax(1)  # (rows, classes, ...)
            entropy = -(logs.exp() * logs).sum(1)
            self._scores = entropy if entropy.ndim == 1 else entropy.flatten(1).mean(1)
            return 0.0
        if isinstance(output, Tensor):
            drawn = replace(batch.rows(self._drawn), weight=None)
            self._scores = learner.loss(output[self._drawn], drawn)
        else:  # of several outputs only the loss knows which rows are whose
            self._scores = learner.loss(output, replace(batch, weight=None))[self._drawn]
        return 0.0

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Note the scores, and offer the new rows."""
        policy = self.memory.policy
        if len(self._slots) and self._scores is not None and isinstance(policy, LossAware):
            policy.rate(self._slots, self._scores.detach())
        super().after_step(learner, batch, output)

    def _chances(self) -> Tensor:
        """Compute the probability of each row held to be drawn, (rows,) float64."""
        policy = self.memory.policy
        assert isinstance(policy, LossAware)
        powers = policy.scores.double().clamp(min=0) ** self.sharpness
        total = powers.sum()
        uniform = torch.full_like(powers, 1 / len(powers))
        if not total > 0:
            return uniform
        return (1 - UNIFORM) * powers / total + UNIFORM * uniform
