"""Streams of rows as they came, cut into stretches of time."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch

from lifelong.core.errors import EmptyTask
from lifelong.streams.labelled import Labelled
from lifelong.streams.rows import Rows
from lifelong.streams.schedule import ScheduleOptions
from lifelong.streams.seeded import seeded
from lifelong.streams.split import at_most
from lifelong.streams.stream import Stream, Task


def in_order(
    data: Labelled,
    tasks: int = 5,
    *,
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Cut rows into stretches of equal length, in the order in which the data set has them.

    Task t learns from the t-th part of the training rows, and is tested on the t-th part of the
    test rows: these have to be spread over the same time, as a random choice of them is. What
    drifts in between, inputs, labels or what connects them, the data decide; classes may come
    and go. The task is not told.

    Args:
        data: the data set; `table` keeps the order of the file.
        tasks: how many stretches.
        seed: of the split, and of the order of the rows within each stretch.
        validation: the share of each class's training rows to set aside.
        limit: at most so many training and so many test rows of each class in each task.
        **schedule: batch, epochs, iterations, drop_last, shuffle; see `Schedule`.

    Raises:
        ValueError: less than one task, or no test rows.
        EmptyTask: there are fewer rows than tasks.

    Example:
        >>> x, y = torch.arange(6.0)[:, None], torch.tensor([0, 0, 1, 1, 1, 0])
        >>> data = Labelled("prices", x, y, x[::2], y[::2], ("down", "up"))
        >>> stream = in_order(data, 3)
        >>> [task.train.x.flatten().tolist() for task in stream.tasks]
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
        >>> [task.classes for task in stream.tasks]
        [(0,), (1,), (0, 1)]
    """
    if tasks < 1:
        raise ValueError(f"tasks is {tasks}; give 1 or more")
    known, asked = len(data.train_y), len(data.test_y)
    if not asked:
        raise ValueError(
            f"{data.name} has no test rows, and each task is tested; set some aside: test=0.2"
        )
    train, valid, test = data.parts(validation=validation, seed=seed)
    made = []
    for t in range(tasks):
        # A row's key is its place in time, which stays when others are set aside.
        own = _stretch(train, t, tasks, known)
        tested = _stretch(test, t, tasks, asked, first=known)
        aside = None if valid is None else _stretch(valid, t, tasks, known)
        if not len(own) or not len(tested):
            raise EmptyTask(
                f"{data.name} has {known} training and {asked} test rows, too few for {tasks} "
                "tasks; take fewer"
            )
        if limit is not None:
            own = own.subset(at_most(own.y, limit, seeded(seed, "limit", "train", t)))
            tested = tested.subset(at_most(tested.y, limit, seeded(seed, "limit", "test", t)))
        classes = tuple(torch.unique(torch.cat((own.y, tested.y))).tolist())
        title = f"{100 * t // tasks} to {100 * (t + 1) // tasks} %"
        made.append(Task(t, classes, title, own, tested, aside))
    names = list(data.class_names)
    return Stream(made, seed=seed, name=f"{data.name} in order", class_names=names, **schedule)


def _stretch(rows: Rows, task: int, tasks: int, count: int, first: int = 0) -> Rows:
    """Return those of `count` rows that are of the task, which then say so."""
    own = rows.subset(((rows.key - first) * tasks // count == task).nonzero().flatten())
    return replace(own, task=torch.full_like(own.task, task))
