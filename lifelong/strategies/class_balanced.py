"""Class-balanced loss: a row counts the less, the more of its class there are in the batch."""

from __future__ import annotations

from dataclasses import replace

import torch

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy


class ClassBalanced(Strategy):
    """Weight each row by the inverse of the effective number of rows of its class.

    weight = (1 - beta) / (1 - beta**n), n = rows of its class in the batch that count
    Cui et al. 2019, arXiv:1901.05555.

    The paper counts a whole, fixed data set. A stream has none, so the counts are those of the
    batch as it is learned: put it behind the replay it is to balance. Rows of weight 0 are not
    counted; other weights are multiplied.

    Args:
        beta: 0 leaves the weights alone; towards 1 all classes weigh the same.

    Raises:
        ValueError: beta is not in [0, 1).

    Example:
        >>> batch = Batch.of(torch.zeros(3, 1), torch.tensor([0, 0, 1]))
        >>> ClassBalanced(beta=0.5).extend(None, batch).weight
        tensor([0.6667, 0.6667, 1.0000])
    """

    row_losses = True

    def __init__(self, beta: float = 0.999) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta is {beta}; it must be 0 or more and below 1, such as 0.999")
        self.beta = beta

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Weight the rows."""
        del learner
        y = batch.y
        if y.ndim != 1 or y.is_floating_point():
            raise InvalidBatch(
                f"y is {y.dtype} of shape {tuple(y.shape)}; only classes can be balanced"
            )
        weight = batch.weight
        if weight is None:
            weight = torch.ones(len(batch), device=y.device)
        # Every pair of rows is compared: no label has to be known, and nothing waits for a GPU.
        count = (y[:, None] == y).to(weight.dtype) @ (weight > 0).to(weight.dtype)
        effective = (1 - self.beta ** count.clamp(min=1)) / (1 - self.beta)
        return replace(batch, weight=weight / effective)
