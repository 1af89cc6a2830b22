"""Losses of a row each, so that rows can be weighted, masked and inspected."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.faults import UNLABELLED, check_batch, check_labels

RowLoss: TypeAlias = Callable[[Any, Batch], Tensor]
"""`loss(output, batch)`: one value a row, shape (rows,), or a scalar."""

_NUMPY = (torch.float32, torch.float64, torch.float16)
"""Element types of weights that numpy has, too."""
LISTED = 1024
"""Weights that are faster looked at in a list; within a step, arrays take ten times as long."""
_NO_LABEL = -(2**62) - 1
"""Torch ignores rows of one label, -100 unless told: this one comes from no conversion."""


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood of the label under the softmax of the outputs, for each row.

    loss_n = -log softmax(output_n)[y_n], averaged over positions where outputs have more than
    two dimensions. Positions labelled -100, such as padded tokens, do not count.

    Args:
        output: (rows, classes) or (rows, classes, ...) logits; computed in float32.
        batch: with int64 labels y of shape (rows,) or (rows, ...).

    Returns:
        (rows,) losses; 0 for a row in which no position counts.

    Raises:
        ValueError: the output is no tensor.
        InvalidBatch: it has no dimension of classes, or labels are no such ids.
        LabelOutsideHead: a label is not one of the classes. On a GPU such a row's loss is NaN
            instead, so that nothing has to wait for the device; the learner then raises.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), Batch.of(torch.zeros(2, 1), torch.tensor([0, 3])))
        tensor([1.3863, 1.3863])
    """
    y = batch.y
    output = checked_output(output)
    if output.ndim < 2:
        raise InvalidBatch(
            f"the model's output has shape {tuple(output.shape)}, and cross-entropy needs (rows, "
            "classes); give the model an output for each class, or take a loss of numbers and y as "
            "floats: loss=nn.BCEWithLogitsLoss(), y.float()"
        )
    if y.is_cuda:
        inside = (y >= 0) & (y < output.shape[1])
        rows = F.cross_entropy(output.float(), torch.where(inside, y, 0), reduction="none")
        rows = torch.where(inside, rows, torch.nan)
        if rows.ndim > 1:
            rows = torch.where(y == UNLABELLED, 0.0, rows)
    else:
        rows = _entropy(output, batch, "none")
    return rows if rows.ndim == 1 else _over_positions(rows, y != UNLABELLED)


def _over_positions(losses: Tensor, count: Tensor) -> Tensor:
    """Average the losses of each row's positions over those that count; others are 0."""
    return losses.flatten(1).sum(1) / count.flatten(1).sum(1).clamp(min=1)


def _entropy(output: Tensor, batch: Batch, reduction: str, rows: int | None = None) -> Tensor:
    """Let torch find labels outside while it looks at each; no label is left out unseen.

    Of the first rows only, if so many are given: `output` is theirs.
    """
    y = batch.y if rows is None else batch.y[:rows]
    if y.dtype != torch.int64:
        check_labels(output, y)
    ignored = UNLABELLED if y.ndim > 1 else _NO_LABEL
    try:
        return F.cross_entropy(output.float(), y, reduction=reduction, ignore_index=ignored)
    except (IndexError, RuntimeError):
        check_batch(output, batch)
        raise


def mean_loss(loss: RowLoss, output: Any, batch: Batch) -> Tensor:
    """Compute the rows' losses and average them, in one pass where the loss has one.

    Example:
        >>> batch = Batch.of(torch.zeros(2), torch.tensor([0, 3]))
        >>> mean_loss(cross_entropy, torch.zeros(2, 4), batch)
        tensor(1.3863)
    """
    fast = loss is cross_entropy and isinstance(output, Tensor) and output.ndim == 2
    if not fast or batch.y.is_cuda:
        return reduce(loss(output, batch), batch)
    if batch.weight is None:
        return _entropy(output, batch, "mean")
    if (rows := _counting(batch)) >= max(batch.new, 1):  # replayed ones were looked at when new
        return _entropy(output[:rows], batch, "mean", rows)
    return reduce(loss(output, batch), batch)


def _counting(batch: Batch) -> int:
    """Count the first rows, if those weigh the same and all behind them nothing; else 0."""
    weight = batch.weight
    assert weight is not None
    if not weight.is_cpu or weight.requires_grad or weight.dtype not in _NUMPY:
        return 0
    if not len(weight):
        return 0
    first = weight[0].item()
    if first == 0 or not math.isfinite(first):
        return 0
    if len(weight) > LISTED:
        array = weight.numpy()
        count = int(np.count_nonzero(array))
        return count if bool((array[:count] == first).all()) else 0
    values = weight.tolist()
    count = len(values) - values.count(0.0)
    return count if values[:count].count(first) == count else 0


def checked_output(output: Any) -> Tensor:
    """Give a model's output back if it is a tensor, else raise `ValueError`.

    Example:
        >>> checked_output({"logits": torch.zeros(2, 4)})
        Traceback (most recent call last):
        ...
        ValueError: the model returns a dict, and a tensor is needed; name the part to learn from: \
lifelong.nets.Logits(model, output="logits"), or give a loss(output, batch) of your own
    """
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the model returns a {type(output).__name__}, and a tensor is needed; name the part "
            'to learn from: lifelong.nets.Logits(model, output="logits"), or give a '
            "loss(output, batch) of your own"
        )
    return output


def row_loss(loss: Callable[..., Tensor]) -> RowLoss:
    """Turn any loss into one of (output, batch) with a value for each row where that is possible.

    A callable whose second parameter is named `batch` is taken as it is. Losses of torch, as
    modules or functions of (output, y), are asked for their rows (`reduction="none"`), of which
    the learner takes the mean; any other callable gets (output, batch.y). A row of several values
    is their mean, or with reduction="batchmean" their sum. With class weights, the mean is over
    rows, not over the sum of the weights as in torch; positions of a loss's ignore_index do not
    count.

    Raises:
        ValueError: a loss with reduction="sum", whose gradient would grow with the batch.

    Example:
        >>> batch = Batch.of(torch.zeros(2, 3), torch.ones(2, 3))
        >>> row_loss(nn.MSELoss())(torch.zeros(2, 3), batch)
        tensor([1., 1.])
    """
    if loss is F.cross_entropy:
        return cross_entropy
    if isinstance(loss, nn.Module):
        if not hasattr(loss, "reduction"):
            return _as_given(loss, loss.forward)
        if loss.reduction == "sum":
            raise ValueError(
                f'{type(loss).__name__} has reduction="sum"; the learner averages over rows: '
                'choose reduction="mean" (and scale the learning rate)'
            )
        whole = loss.reduction == "batchmean"
        loss = copy.copy(loss)
        setattr(loss, "reduction", "none")  # noqa: B010 - a module's attribute has no static type
    elif getattr(loss, "__module__", "") == "torch.nn.functional":
        whole = False
        loss = functools.partial(loss, reduction="none")
    else:
        return _as_given(loss, loss)
    return functools.partial(_torch_rows, loss, whole)


def of_each_row(loss: RowLoss, needed_by: Sequence[str]) -> RowLoss:
    """Let a loss be refused at its first value if that is a scalar and some strategies need rows.

    Raises:
        InvalidBatch: when called, if the loss gives a scalar.

    Example:
        >>> mean = of_each_row(lambda output, batch: output.mean(), ["EWC"])
        >>> mean(torch.zeros(1, 2), Batch.of(torch.zeros(1, 2), torch.zeros(1)))
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: the loss gives a scalar; EWC cannot do without the loss \
of each row, (rows,): take the mean out of the loss, or leave out EWC
    """
    if loss is cross_entropy or not needed_by:
        return loss
    names = " and ".join(dict.fromkeys(needed_by))

    def checked(output: Any, batch: Batch) -> Tensor:
        rows = loss(output, batch)
        if rows.ndim == 0:
            raise InvalidBatch(
                f"the loss gives a scalar; {names} cannot do without the loss of each row, "
                f"(rows,): take the mean out of the loss, or leave out {names}"
            )
        return rows

    return checked


def _as_given(loss: Callable[..., Tensor], signature: Callable[..., Tensor]) -> RowLoss:
    names = list(inspect.signature(signature).parameters)
    if len(names) > 1 and names[1] == "batch":
        return loss
    return lambda output, batch: loss(output, batch.y)


def _torch_rows(loss: Callable[..., Tensor], whole: bool, output: Tensor, batch: Batch) -> Tensor:
    output = checked_output(output)
    classes = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and batch.y.dtype == torch.int64
    unlabelled = loss.ignore_index if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else 0
    if classes and not batch.y.is_cuda:  # to look there would stall it at every step
        check_batch(output, batch, unlabelled)
    if batch.y.is_floating_point() and batch.y.shape != output.shape:
        raise InvalidBatch(
            f"outputs have shape {tuple(output.shape)} and targets {tuple(batch.y.shape)}; torch "
            "would compare each with several: give the targets the shape of the outputs"
        )
    rows = loss(output.float(), batch.y)
    if rows.ndim < 2:
        return rows
    if classes:
        return _over_positions(rows, batch.y != unlabelled)
    return rows.flatten(1).sum(1) if whole else rows.flatten(1).mean(1)


def reduce(rows: Tensor, batch: Batch) -> Tensor:
    """Average row losses, by the batch's weights where it has them.

    Where all weights are 0 the average is 0, so that a strategy can put a loss of its own in the
    place of the learner's.

    Raises:
        InvalidBatch: rows are weighted but the loss is a scalar, or it is neither a scalar nor
            one value a row.

    Example:
        >>> batch = Batch.of(torch.zeros(2, 1), torch.tensor([0, 0]))
        >>> reduce(torch.tensor([1.0, 3.0]), batch)
        tensor(2.)
    """
    if rows.ndim == 0:
        if batch.weight is not None:
            raise InvalidBatch(
                "a strategy weights rows, but the loss gives a scalar; give it one value a row "
                '(reduction="none")'
            )
        return rows
    if rows.shape != batch.y.shape[:1]:
        raise InvalidBatch(
            f"the loss has shape {tuple(rows.shape)} for {len(batch)} rows; "
            "it must give one value a row, or a scalar"
        )
    if batch.weight is None:
        return rows.mean()
    total = batch.weight.sum().clamp(min=torch.finfo(batch.weight.dtype).tiny)
    return torch.dot(rows, batch.weight.to(rows.dtype)) / total
