"""Steady: replay of labels and answers, in which new rows hardly push old classes down."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.memory import Codec
from lifelong.strategies.class_ids import check_class_ids
from lifelong.strategies.der import DER
from lifelong.strategies.er_ace import own_loss, uncounted

_CLASSES = (
    "Steady, and so the default learner, keeps classes apart; for other targets replay alone: "
    'Learner(model, optimizer, [Replay("10MB")])'
)


class Steady(DER):
    """Replay of labels and answers together, with new rows that hardly push old classes down.

    loss = mean over new rows of the loss of (output_c - log(seen / held) for c not among them)
         + mean over replayed rows of (loss of output
                                       + strength * mean of (output - stored output)**2)
    with seen / held the rows of the past that one in the memory stands for. The first line lies
    between plain replay, where every row is held, and the asymmetric loss of ER-ACE (Caccia et al.
    2022, arXiv:2104.05025), where few of many are: an offset by the logarithm of how often a class
    comes too seldom is that of Menon et al. 2020, arXiv:2007.07314. The second is DER++ (Buzzega et
    al. 2020, arXiv:2004.07211) with one draw of rows for both terms instead of one for each.

    It needs neither tasks nor boundaries, and it is what `default_learner` takes. Its memory has
    equal shares, so that no class is outnumbered among the rows replayed; answers take 16 bits,
    so that more rows fit; and at least `rows` of them come in each step, so that small batches do
    not learn from a few. New rows count by the weights that they come with, as in `ERACE`.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take.
        strength: of the squared distance; alpha in DER++.
        rows: how many to replay with each batch; as many as are new where these are more.
        policy: which rows stay, as in `Replay`.
        store: how to keep the inputs, as in `Replay`; "auto" is 16 bits for floating-point numbers.
        **settings: the others of `Replay`.

    Raises:
        BudgetTooSmall: from the step, the bytes do not hold a row of each class.
        InvalidBatch: from the step, the output is not (rows, classes), or y no class ids.

    Example:
        >>> Steady("1MB").memory.policy.name
        'balanced'
    """

    kept_as: ClassVar[torch.dtype] = torch.float16

    def __init__(
        self,
        capacity: int | str = "10MB",
        *,
        strength: float = 0.5,
        rows: int = 32,
        policy: str = "balanced",
        store: str | Codec | None = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(
            capacity, strength=strength, rows=rows, policy=policy, store=store, **settings
        )
        self._weight: Tensor | None = None

    def count(self, batch: Batch) -> int:
        """Tell how many rows to replay: as many as are new, and not less than `rows`."""
        return max(self.rows or 0, batch.new)

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append a draw; the losses of its rows and of the new ones are left to `penalty`."""
        check_class_ids(batch.y, _CLASSES)
        self._weight = batch.weight
        return super().extend(learner, uncounted(batch))

    def answers(self, learner: Learner, batch: Batch, output: Tensor) -> Tensor:
        """The new rows' outputs, within what 16 bits can tell."""
        largest = torch.finfo(self.kept_as).max
        return super().answers(learner, batch, output).clamp(-largest, largest)

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """The new rows' loss, in which other classes weigh less, and both of the rows replayed."""
        distance = super().penalty(learner, batch, output)
        new = own_loss(learner, batch, output, self._weight, by=self.offset())
        if self._logits is None:
            return new
        rows, _ = self._logits
        known = learner.mean_loss(output[rows], replace(batch.rows(rows), weight=None))
        return new + known + distance

    def offset(self) -> float:
        """How far outputs of classes that are not among the new rows are lowered for their loss."""
        return log(max(1, self.memory.seen) / max(1, len(self.memory)))
