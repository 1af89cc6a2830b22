"""Accuracy on each task's held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong.core.errors import UnknownTask
from lifelong.core.learner import Learner
from lifelong.streams import Rows


def evaluate(learner: Learner, tests: Sequence[Rows], task_known: bool) -> list[float]:
    """Measure the share of right answers on each part of the test rows.

    A model that has no outputs for a task yet, because it has not begun, counts as never right;
    where the task is told, as right by chance.

    Args:
        learner: with a model of (rows, classes) outputs.
        tests: rows, one part a task.
        task_known: tell the model each row's task.

    Returns:
        Accuracies from 0 to 1.
    """
    return [_accuracy(learner, rows, task_known) for rows in tests]


def _accuracy(learner: Learner, rows: Rows, task_known: bool) -> float:
    try:
        output = learner.predict(rows.x, rows.task if task_known else None)
    except UnknownTask:
        return 1.0 / len(set(rows.y.tolist())) if task_known else 0.0
    if bool(output.isnan().all()):
        # What a GPU, which is not asked at every step, answers for a task it does not know.
        return 1.0 / len(set(rows.y.tolist())) if task_known else 0.0
    right: float = (output.argmax(1).cpu() == rows.y.cpu()).double().mean().item()
    return right
