"""ER-ACE: new rows compete among their own classes only, replayed rows among all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.learner import Learner
from lifelong.nets.heads import MASKED
from lifelong.strategies.replay import Replay


class ERACE(Replay):
    """Replay in which new rows do not push down the outputs of classes that are not among them.

    loss = mean over new rows of the loss on the classes of the new rows alone
         + mean over replayed rows of the loss on all classes
    Caccia et al. 2022, arXiv:2104.05025 (asymmetric cross-entropy).

    So the features of old classes are not moved abruptly when new ones come. The mask also holds
    in the first task, where replay teaches the rest. The two means are added, so at an equal
    learning rate steps are about twice those of `Replay`, which takes one mean over all rows.

    New rows count by the weights that they come with: what weights them (`ClassBalanced`) stands
    before it in the list. Strategies behind it see them with the weight 0, and weight what is
    replayed.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take.
        **settings: as in `Replay`.

    Example:
        >>> len(ERACE(capacity=500).memory)
        0
    """

    row_losses = True

    def __init__(self, capacity: int | str = 500, **settings: Any) -> None:
        super().__init__(capacity, **settings)
        self._weight: Tensor | None = None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append rows from the memory; the new rows' loss is left to `penalty` (weight 0)."""
        self._weight = batch.weight
        return super().extend(learner, uncounted(batch))

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """The mean loss of the new rows on their own classes."""
        return own_loss(learner, batch, output, self._weight)


def own_loss(
    learner: Learner, batch: Batch, output: Any, weight: Tensor | None, by: float | None = None
) -> Tensor:
    """Average the losses of the new rows on their own classes, by the weights they had.

    Outputs of other classes are masked, or lowered `by` so much.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        told = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InvalidBatch(f"the output is {told}; it must be of shape (rows, classes)")
    rows = slice(batch.new)
    new = replace(batch.rows(rows), weight=None if weight is None else weight[rows])
    return learner.mean_loss(masked(output[rows], new.y, by), new)


def uncounted(batch: Batch) -> Batch:
    """Give the new rows of a batch the weight 0; the others keep theirs.

    Example:
        >>> uncounted(Batch.of(torch.zeros(2, 1), torch.tensor([0, 1]))).weight
        tensor([0., 0.])
    """
    weight = torch.ones(len(batch), device=batch.y.device)
    weight = weight if batch.weight is None else batch.weight.clone()
    weight[: batch.new] = 0
    return replace(batch, weight=weight)


def counted(batch: Batch) -> Tensor:
    """Weigh the new rows of a batch, 1 each if it has no weights or none of them counts.

    So it is behind a strategy that takes their loss over, as with `uncounted`.

    Example:
        >>> batch = Batch.of(torch.zeros(2, 1), torch.tensor([0, 1]))
        >>> counted(replace(batch, weight=torch.tensor([0.0, 3.0])))
        tensor([0., 3.])
        >>> counted(uncounted(batch))
        tensor([1., 1.])
    """
    if batch.weight is None:
        return torch.ones(batch.new, device=batch.y.device)
    weight = batch.weight[: batch.new]
    return weight.where(weight.sum() > 0, 1)  # on the device, which has not to wait for it


def masked(output: Tensor, y: Tensor, by: float | None = None) -> Tensor:
    """Mask the outputs of classes that are not among the labels, or lower them `by` so much.

    Example:
        >>> (masked(torch.zeros(1, 3), torch.tensor([0, 2])) > MASKED).tolist()
        [[True, False, True]]
    """
    if y.ndim != 1 or y.is_floating_point():
        raise InvalidBatch(f"y is {y.dtype} of shape {tuple(y.shape)}; it must be class ids")
    classes = torch.arange(output.shape[1], device=output.device)
    absent = (classes[:, None] != y).all(1)
    if by is None:
        return output.masked_fill(absent, MASKED)
    return output - by * absent.to(output.dtype)
