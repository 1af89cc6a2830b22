"""What is wrong with the rows, the labels or the loss of a step that cannot be taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import (
    InvalidBatch,
    LabelOutsideHead,
    LifelongError,
    NonFiniteLoss,
    NothingLeftToLearn,
)

HIDDEN = -(2.0**14)
"""What the outputs of classes that are hidden from a task read: `lifelong.nets.MASKED`."""

HUGE = 1e6
"""A weight that no training arrives at which goes well."""

UNLABELLED = -100
"""The label of a position that has none, such as a padded token's, as torch has it."""


def check_labels(output: Tensor, y: Tensor, unlabelled: int = UNLABELLED) -> None:
    """Raise `LabelOutsideHead` unless every label names one of the outputs.

    Where a row has several positions, those labelled `unlabelled` have none.

    Example:
        >>> check_labels(torch.zeros(2, 4), torch.tensor([0, 4]))
        Traceback (most recent call last):
        ...
        lifelong.core.errors.LabelOutsideHead: labels span 0 to 4, but the model has outputs 0 to 3\
; widen its head, or grow it: begin_task(TaskSpec(id, classes=...))
    """
    if y.dtype != torch.int64:
        raise InvalidBatch(f"class labels must be int64, received {y.dtype}; convert with y.long()")
    if y.shape[1:] != output.shape[2:]:
        told = "y.argmax(1)" if y.shape == output.shape else "y.squeeze(1)"
        way_out = f"give one id a row: {told}"
        if output.ndim > 2 and y.shape == output.shape[:-1]:
            way_out = "let the model give (rows, classes, length): output.movedim(-1, 1)"
        raise InvalidBatch(
            f"class labels have shape {tuple(y.shape)} for outputs of shape {tuple(output.shape)}; "
            f"{way_out}"
        )
    if y.ndim > 1:
        y = y[y != unlabelled]
        if not len(y):
            return
    low, high = (int(end) for end in torch.aminmax(y))
    if low < 0:
        raise LabelOutsideHead(
            f"labels span {low} to {high}, and class ids begin at 0; leave out rows without a "
            "label (positions without one, such as padded tokens, are labelled -100)"
        )
    if high >= output.shape[1]:
        told = f"labels span {low} to {high}" if low < high else f"all labels are {low}"
        outputs = f"outputs 0 to {output.shape[1] - 1}" if output.shape[1] else "no outputs yet"
        raise LabelOutsideHead(
            f"{told}, but the model has {outputs}; "
            "widen its head, or grow it: begin_task(TaskSpec(id, classes=...))"
        )


def check_batch(output: Tensor, batch: Batch, unlabelled: int = UNLABELLED) -> None:
    """Check all labels; where new rows are at fault, speak of those alone, which were given."""
    try:
        check_labels(output, batch.y, unlabelled)
    except LabelOutsideHead:
        if batch.new:
            check_labels(output, batch.y[: batch.new], unlabelled)
        raise


def _told_rows(rows: list[int], batch: Batch) -> tuple[list[int], int, str]:
    """Speak of new rows alone, which were given, where there are some; else of replayed ones."""
    if new := [row for row in rows if row < batch.new]:
        return new, batch.new, ""
    return [row - batch.new for row in rows], len(batch) - batch.new, "replayed "


def finite_sum(column: Tensor) -> bool:
    """Tell whether the sum of all numbers is finite; it is not if one of them is not.

    Example:
        >>> finite_sum(torch.tensor([1.0, torch.nan])), finite_sum(torch.tensor([1, 2]))
        (False, True)
    """
    wide = torch.float32 if column.itemsize < 4 else None
    return not column.is_floating_point() or math.isfinite(column.sum(dtype=wide).item())


def bad_rows(batch: Batch) -> InvalidBatch | None:
    """Name the rows with values that are not finite, as the error to raise; None without any.

    Example:
        >>> print(bad_rows(Batch.of(torch.tensor([0.0, torch.nan]), torch.tensor([0, 1]))))
        x holds NaN or infinity in 1 of 2 rows (1); remove those rows; the learner is as it was \
before
    """
    for name, column in batch.columns():
        if column.is_floating_point() and not bool(column.isfinite().all()):
            bad = ~column.flatten(1).isfinite().all(1) if column.ndim > 1 else ~column.isfinite()
            rows = bad.nonzero().flatten().tolist()
            rows, of, kind = _told_rows(rows, batch)
            told = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
            return InvalidBatch(
                f"{name} holds NaN or infinity in {len(rows)} of {of} {kind}rows ({told}); "
                "remove those rows; the learner is as it was before"
            )
    return None


def nothing_to_learn(batch: Batch, current: int | None) -> NothingLeftToLearn:
    """Say, as an error, that nothing which trains has a part in the loss of these rows."""
    tasks = sorted(set(batch.task[: batch.new].tolist()))
    told = "no task is open" if current is None else f"task {current} is open"
    return NothingLeftToLearn(
        f"nothing that trains has a part in the loss of these rows, of task "
        f"{', '.join(map(str, tasks))}, and {told}: what that task uses is kept as it is, or the "
        "model gives outputs without a gradient; give rows of the task that is open"
    )


def hidden_labels(batch: Batch, output: Any) -> LabelOutsideHead | None:
    """Name the new rows whose label has an output that is hidden from their task, as an error.

    No step can learn away what stands there.

    Example:
        >>> batch = Batch.of(torch.zeros(2, 1), torch.tensor([0, 1]), task=1)
        >>> print(hidden_labels(batch, torch.tensor([[-16384.0, 0.0]] * 2)))
        label 0 in row 0 is none of the classes of task 1, where its output is hidden; labels \
count the classes of all tasks, not those of one (1 row of 2)
    """
    y = batch.y[: batch.new]
    if not isinstance(output, Tensor) or output.ndim != 2 or y.dtype != torch.int64 or y.ndim != 1:
        return None
    if not len(y) or int(y.min()) < 0 or int(y.max()) >= output.shape[1]:
        return None
    bad = output.detach()[: batch.new].gather(1, y[:, None]).squeeze(1) == HIDDEN
    if batch.weight is not None:
        bad &= batch.weight[: batch.new] > 0
    rows = bad.nonzero().flatten().tolist()
    if not rows:
        return None
    return LabelOutsideHead(
        f"label {int(y[rows[0]])} in row {rows[0]} is none of the classes of task "
        f"{int(batch.task[rows[0]])}, where its output is hidden; labels count the classes of all "
        f"tasks, not those of one ({len(rows)} row{'s' if len(rows) > 1 else ''} of {batch.new})"
    )


def explain_non_finite(
    batch: Batch, output: Any, step: int, found: str, weights: Iterable[Tensor] = ()
) -> LifelongError:
    """Say why a step went wrong, as the error to raise: bad rows first, then divergence.

    Weights that are huge already say that steps before it went wrong.
    """
    if (bad := bad_rows(batch)) is not None:
        return bad
    y = batch.y
    if isinstance(output, Tensor) and output.ndim > 1 and y.dtype == torch.int64:
        try:
            check_batch(output, batch)
        except LabelOutsideHead as error:
            return error
    sizes = [
        (weight.detach().float() if weight.itemsize < 2 else weight.detach()).abs().max().item()
        for weight in weights
        if weight.numel()
    ]
    finite = all(map(math.isfinite, sizes))
    ruined = ""
    if not finite or max(sizes, default=0.0) > HUGE:
        size = f"as large as {max(sizes):.0e}" if finite else "not finite"
        ruined = f", when weights were {size} already: go back to an earlier checkpoint"
    return NonFiniteLoss(
        f"{found} is not finite at step {step}; lower the learning rate or the strengths of the "
        "strategies, or clip the gradient (clip=1.0); the learner is as it was before the step"
        f"{ruined}"
    )
