"""DER and DER++: replay rows together with what the model once answered to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.learner import Learner
from lifelong.nets.heads import MASKED
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.replay import Replay


class DER(Replay):
    """Keep the model's answers to replayed rows close to those it gave when they were new.

    loss = row losses of the new rows + strength * mean of (output - stored output)**2
    Buzzega et al. 2020, arXiv:2004.07211 (dark experience replay; strength is alpha).

    Outputs that the model did not have yet, or masked, when a row was stored are not compared:
    they count as equal in the mean.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take.
        strength: alpha in the paper.
        **settings: as in `Replay`.

    Raises:
        BudgetTooSmall: from the step, when outputs have become too wide for the bytes given.

    Example:
        >>> DER(capacity=200, strength=0.5).strength
        0.5
    """

    state: ClassVar[tuple[str, ...]] = ("memory", "width")
    row_losses = True
    kept_as: ClassVar[torch.dtype] = torch.float32
    """The element type of stored outputs."""

    def __init__(
        self, capacity: int | str = 500, *, strength: float = 0.5, **settings: Any
    ) -> None:
        super().__init__(capacity, **settings)
        self.strength = checked_strength(strength)
        self.width = 0
        """How many outputs are stored of each row."""
        self._logits: tuple[slice, Tensor] | None = None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append rows whose labels do not count (weight 0), and remember their stored outputs."""
        longer, drawn = self.extended(learner, batch, weight=0.0)
        self._logits = (slice(len(batch), len(longer)), drawn["logits"]) if drawn else None
        return longer

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Squared distance between the outputs now and then."""
        if not isinstance(output, Tensor) or output.ndim != 2:
            told = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidBatch(f"the output is {told}; this keeps outputs of shape (rows, classes)")
        if output.shape[1] > self.width:
            logits = output.new_empty(batch.new, output.shape[1], dtype=self.kept_as)
            self.check(learner, batch, {"logits": logits}, wider="logits")
        if self._logits is None:
            return 0.0
        rows, then = self._logits
        now = output[rows, : then.shape[1]].float()
        then = torch.where(then.isnan(), now.detach(), then.float())
        return self.strength * F.mse_loss(now, then)

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer the new rows with the outputs they have just had."""
        self._logits = None
        super().after_step(learner, batch, output)

    def store(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer the new rows with their outputs; those of the model as it is where none are."""
        if output is None:
            output = learner.predict(batch.x, batch.task)
        logits = self.answers(learner, batch, output)
        width = logits.shape[1]
        if width > self.width:
            # The head has grown: what rows in the memory had no answer to is NaN.
            self.memory.widen("logits", width, float("nan"), self.generator)
            self.width = width
        self.keep(batch, {"logits": logits.to(self.kept_as)})

    def answers(self, learner: Learner, batch: Batch, output: Tensor) -> Tensor:
        """The outputs of the new rows as they are to be stored, NaN where there is no answer."""
        del learner
        logits = output[: batch.new].float()
        # An answer that a task masks is none: a later task of that id may show it.
        return F.threshold(logits, MASKED, float("nan"))


class DERpp(DER):
    """DER, and the labels of replayed rows too.

    loss = DER's + label_strength * mean row loss of other rows from the memory
    Buzzega et al. 2020, arXiv:2004.07211 (DER++; label_strength is beta).

    Args:
        capacity: how many rows the memory holds.
        strength: alpha in the paper.
        label_strength: beta in the paper.
        **settings: as in `Replay`.

    Example:
        >>> DERpp(capacity=200, strength=0.2, label_strength=1.0).label_strength
        1.0
    """

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        strength: float = 0.5,
        label_strength: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(capacity, strength=strength, **settings)
        self.label_strength = checked_strength(label_strength)
        self._labelled: slice | None = None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append one draw for its outputs and another for its labels."""
        self._logits = self._labelled = None
        longer, drawn = self.extended(learner, batch, times=2, weight=0.0)
        if drawn:
            start, stop = len(batch), len(longer)
            middle = (start + stop) // 2
            self._logits = slice(start, middle), drawn["logits"][: middle - start]
            self._labelled = slice(middle, stop)
        return longer

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """DER's distance, and the loss of the second draw."""
        distance = super().penalty(learner, batch, output)
        if self._labelled is None:
            return distance
        labelled = replace(batch.rows(self._labelled), weight=None)
        known = learner.mean_loss(output[self._labelled], labelled)
        return torch.add(distance, known, alpha=self.label_strength)
