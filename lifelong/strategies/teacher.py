"""A model as it once was, and what it teaches: what all distillation shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.forward import forward, frozen_copy
from lifelong.core.learner import Learner
from lifelong.nets import NearestMeanHead
from lifelong.strategies.class_ids import check_class_ids

Rows: TypeAlias = Literal["new", "replayed", "all"]
"""Which rows of a batch a teacher is asked about: the stream's, those appended, or both."""


class Frozen:
    """A copy of the model with the weights of a teacher, made anew only when it has to be.

    That is, when the teacher's tensors are others, or when the model has been grown. Tensors that
    are changed in place change the copy along. It is in eval mode, but for a `NearestMeanHead`,
    which shows logits in training only: a teacher answers as its student does.
    """

    def __init__(self) -> None:
        self._copy: nn.Module = nn.Identity()
        self._tensors: object = None
        self._parameters: object = None

    def of(self, learner: Learner, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Give the teacher as a model; what it lacks of the present one is 0."""
        if self._tensors is not tensors or self._parameters is not learner.parameters:
            self._copy = frozen_copy(learner.model, tensors)
            for module in self._copy.modules():
                if isinstance(module, NearestMeanHead):
                    module.training = True  # of itself alone: the parts in it stay in eval mode
            self._tensors, self._parameters = tensors, learner.parameters
        return self._copy


@torch.no_grad()
def answers(learner: Learner, teacher: nn.Module, asked: Batch) -> Tensor:
    """Ask a teacher about rows as they stand, with their tasks if the model wants them."""
    with learner.autocast():
        return forward(teacher, asked.x, asked.task if learner.task_aware else None)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters and buffers of a model as it is, by name.

    Example:
        >>> sorted(snapshot(nn.Linear(2, 3)))
        ['bias', 'weight']
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def softened(student: Tensor, taught: Tensor, temperature: float, strength: float = 1.0) -> Tensor:
    """Compute the cross-entropy between softened answers; the mean over rows and positions.

    strength * T**2 * mean of -sum_c softmax(taught / T)_c * log softmax(student / T)_c

    Answers are (rows, classes) or (rows, classes, ...), as `cross_entropy` takes them. Outputs
    that the student has beyond the teacher's are taught a probability of 0.

    Example:
        >>> softened(torch.zeros(2, 4), torch.zeros(2, 4), 1.0)
        tensor(1.3863)
    """
    # Factors go to the targets, which have no gradient: that leaves the fewest operations to it.
    target = F.softmax(taught.float() / temperature, 1)
    target *= -strength * temperature**2 / (len(target) * math.prod(target.shape[2:]))
    lacking = student.shape[1] - taught.shape[1]
    if lacking:
        target = F.pad(target, (*(0, 0) * (target.ndim - 2), 0, lacking))
    answer = F.log_softmax(student.float() / temperature, 1)
    # The sum of products as one operation: cross_entropy takes five, and as many backwards.
    return torch.dot(answer.flatten(), target.flatten())


def listed(output: Any, told: str) -> Tensor:
    """Give a model's output back if it is a tensor of shape (rows, outputs, ...).

    Raises:
        InvalidBatch: it is not; `told` says what it is needed for.

    Example:
        >>> listed(torch.zeros(2), "MeanTeacher compares them")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: the model's output has shape (2,); MeanTeacher compares \
them, so give one tensor of shape (rows, outputs), such as (2, 1)
    """
    if isinstance(output, Tensor) and output.ndim > 1:
        return output
    if not isinstance(output, Tensor):
        raise InvalidBatch(
            f"the model's output is a {type(output).__name__}; {told}, so give one tensor of shape "
            "(rows, outputs): lifelong.nets.Logits(model, output=...) picks one of several"
        )
    raise InvalidBatch(
        f"the model's output has shape {tuple(output.shape)}; {told}, so give one tensor of shape "
        f"(rows, outputs), such as ({len(output) if output.ndim else 1}, 1)"
    )


def of_classes(output: Any, batch: Batch, told: str) -> Tensor:
    """Give a model's output back if a softmax over it is of classes, (rows, classes, ...).

    Over a single output it is constant, and over those of a regression it means nothing. Targets
    are class ids, or a probability of each class; on a GPU, their values are not looked at.

    Raises:
        InvalidBatch: the outputs or the targets are others; `told` says what to do.

    Example:
        >>> of_classes(torch.zeros(2, 1), Batch.of(torch.zeros(2), torch.zeros(2, 1)), "take L2")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: outputs of shape (2, 1) for y, torch.float32 of shape \
(2, 1), are not of several classes, (rows, classes); take L2
    """
    y = batch.y
    if isinstance(output, Tensor) and output.ndim > 1:
        if y.is_floating_point():
            alike = output.shape[1] > 1 and y.shape[1:] == output.shape[1:]
            fits = alike and (y.is_cuda or _probabilities(y[: batch.new]))
        else:  # a head may have had no class but the first yet
            fits = output.shape[1] != 1 or y.is_cuda or not bool(y[: batch.new].any())
        if fits:
            return output
    tensor = isinstance(output, Tensor)
    found = f"of shape {tuple(output.shape)}" if tensor else f"in a {type(output).__name__}"
    raise InvalidBatch(
        f"outputs {found} for y, {y.dtype} of shape {tuple(y.shape)}, are not of several classes, "
        f"(rows, classes); {told}"
    )


def of_one_class(output: Any, batch: Batch, told: str) -> Tensor:
    """Give a model's output back if it has one for each class, (rows, classes), and y an id a row.

    Raises:
        InvalidBatch: the outputs or the targets are others; `told` says what to do.

    Example:
        >>> of_one_class(torch.zeros(2, 3), Batch.of(torch.zeros(2), torch.zeros(2)), "take L2")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: y is torch.float32 of shape (2,), no class a row; take L2
    """
    check_class_ids(batch.y, told)
    found = of_classes(output, batch, told)
    if found.ndim > 2:
        raise InvalidBatch(
            f"outputs of shape {tuple(found.shape)} for one class a row, where (rows, classes) "
            f"are needed; {told}"
        )
    return found


def _probabilities(y: Tensor) -> bool:
    total = y.sum(1)
    return bool((y >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-2)


def chosen(batch: Batch, rows: Rows) -> slice:
    """Tell where the rows are that a teacher is asked about.

    Example:
        >>> batch = Batch.of(torch.zeros(2), torch.zeros(2))
        >>> chosen(batch.extended(batch), "replayed")
        slice(2, 4, None)
    """
    return slice(
        batch.new if rows == "replayed" else 0,
        batch.new if rows == "new" else len(batch),
    )


def checked_rows(rows: Rows) -> Rows:
    """Give the choice of rows back if it is one.

    Example:
        >>> checked_rows("old")
        Traceback (most recent call last):
        ...
        ValueError: rows is 'old'; choose 'new', 'replayed' or 'all'
    """
    if rows not in ("new", "replayed", "all"):
        raise ValueError(f"rows is {rows!r}; choose 'new', 'replayed' or 'all'")
    return rows
