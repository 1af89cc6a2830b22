"""Streams without forgetting, to bound what a strategy can reach."""

from __future__ import annotations

from dataclasses import asdict, replace

from lifelong.streams.rows import Rows
from lifelong.streams.schedule import Schedule
from lifelong.streams.stream import Stream, Task


def joint(stream: Stream, *, epochs: int | None = None, iterations: int | None = None) -> Stream:
    """Make all tasks one: the usual upper bound.

    Rows keep their task ids, and `tests` stay those of the original tasks, so that a learner
    is measured as on the original stream. The one task has an id of its own. By default a row is
    seen as often (`epochs`), or the learner takes as many steps (`iterations` times the number of
    tasks), as on the original.

    Args:
        stream: the original; it is left as it is.
        epochs, iterations: another length instead.

    Example:
        >>> import torch
        >>> rows = Rows.of(torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> tasks = [Task(i, (0, 1), str(i), rows, rows) for i in range(3)]
        >>> bound = joint(Stream(tasks, iterations=10))
        >>> len(bound), len(bound.tasks[0].train), len(bound.tasks[0]), len(bound.tests)
        (1, 6, 30, 3)
    """
    schedule = stream.schedule
    if epochs is None and iterations is None and schedule.iterations is not None:
        iterations = schedule.iterations * len(stream)
    valid = [task.valid for task in stream.tasks if task.valid is not None]
    task = Task(
        id=max(task.id for task in stream.tasks) + 1,
        classes=tuple(sorted({c for task in stream.tasks for c in task.classes})),
        name="all tasks",
        train=Rows.concatenate([task.train for task in stream.tasks]),
        test=Rows.concatenate(stream.tests),
        valid=Rows.concatenate(valid) if valid else None,
    )
    return _like(stream, [task], _lasting(schedule, epochs, iterations), "joint")


def cumulative(
    stream: Stream, *, epochs: int | None = None, iterations: int | None = None
) -> Stream:
    """Let task i train on the rows of tasks 0 to i: a learner that may keep all it was given.

    Only the training rows accumulate; classes, test and validation rows stay those of the task,
    so that heads grow as on the original. The rows are held once, however many tasks there are.

    Args:
        stream: the original; it is left as it is.
        epochs, iterations: passes or batches for each task, if not those of the original.

    Example:
        >>> import torch
        >>> rows = Rows.of(torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> tasks = [Task(i, (0, 1), str(i), rows, rows) for i in range(3)]
        >>> [len(task.train) for task in cumulative(Stream(tasks)).tasks]
        [2, 4, 6]
    """
    together = Rows.concatenate([task.train for task in stream.tasks])
    tasks: list[Task] = []
    end = 0
    for task in stream.tasks:
        end += len(task.train)
        train = together.subset(slice(0, end))
        tasks.append(replace(task, train=train))
    return _like(stream, tasks, _lasting(stream.schedule, epochs, iterations), "cumulative")


def _lasting(schedule: Schedule, epochs: int | None, iterations: int | None) -> Schedule:
    if epochs is None and iterations is None:
        return schedule
    return replace(schedule, epochs=1 if epochs is None else epochs, iterations=iterations)


def _like(stream: Stream, tasks: list[Task], schedule: Schedule, kind: str) -> Stream:
    return Stream(
        tasks,
        **asdict(schedule),
        name=f"{stream.name} ({kind})",
        class_names=stream.class_names,
        task_known=stream.task_known,
        tests=stream.tests,
    )
