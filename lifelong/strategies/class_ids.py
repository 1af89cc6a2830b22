"""Labels that name a class each: what methods that count, choose or measure by class need."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from lifelong.core.errors import InvalidBatch, LabelOutsideHead
from lifelong.core.task import TaskSpec


def check_class_ids(y: Tensor, told: str) -> None:
    """Raise `InvalidBatch` unless each row has one class; its values are not looked at.

    Args:
        y: (rows,) integers.
        told: what they are needed for, and what to do.

    Example:
        >>> import torch
        >>> check_class_ids(torch.zeros(2, 1), "WA scales the outputs of classes: leave it out")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: y is torch.float32 of shape (2, 1), no class a row; WA \
scales the outputs of classes: leave it out
    """
    if y.ndim != 1 or y.is_floating_point():
        raise InvalidBatch(f"y is {y.dtype} of shape {tuple(y.shape)}, no class a row; {told}")


def check_named(tasks: Iterable[TaskSpec], output: Tensor) -> None:
    """Raise `LabelOutsideHead` unless each class named for a task has an output.

    Args:
        tasks: all begun so far.
        output: (rows, classes, ...).

    Example:
        >>> import torch
        >>> check_named([TaskSpec(0, (0, 1)), TaskSpec(1, (2, 3))], torch.zeros(2, 3))
        Traceback (most recent call last):
        ...
        lifelong.core.errors.LabelOutsideHead: class 3 is named for task 1, but the model has \
outputs 0 to 2; widen its head, let it grow (lifelong.nets.GrowingHead), or name those classes \
that the task's labels come from
    """
    outputs = output.shape[1]
    for task in tasks:
        if task.classes and max(task.classes) >= outputs:
            raise LabelOutsideHead(
                f"class {max(task.classes)} is named for task {task.id}, but the model has outputs "
                f"0 to {outputs - 1}; widen its head, let it grow (lifelong.nets.GrowingHead), or "
                "name those classes that the task's labels come from"
            )


def check_among(y: Tensor, tasks: list[TaskSpec], told: str) -> None:
    """Raise `InvalidBatch` unless the labels are among the classes named for the tasks so far.

    Where a task names none, any may come. Looking would stall a GPU, so there none is refused.

    Args:
        y: (rows,) integers.
        tasks: all begun so far.
        told: what becomes of others, or why there can be none.

    Example:
        >>> import torch
        >>> check_among(torch.tensor([2, 4, 3]), [TaskSpec(1, (2, 3))], "ICaRL learns no others")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: label 4 is none of the classes named for the tasks so \
far, [2, 3]; ICaRL learns no others: name all, begin_task(TaskSpec(1, classes=...))
    """
    if not y.is_cpu or not tasks or not all(task.classes for task in tasks):
        return
    named = {c for task in tasks for c in task.classes}
    if others := set(y.tolist()) - named:
        raise InvalidBatch(
            f"label {min(others)} is none of the classes named for the tasks so far, "
            f"{sorted(named)}; {told}: name all, begin_task(TaskSpec({tasks[-1].id}, classes=...))"
        )
