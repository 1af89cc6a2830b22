"""Streams made of a labelled data set by dealing its classes out to tasks.

The names follow van de Ven & Tolias 2019, arXiv:1904.07734 (see also van de Ven, Tuytelaars &
Tolias 2022, Nature Machine Intelligence 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, Unpack

import torch
from torch import Tensor

from lifelong.streams.labelled import Labelled
from lifelong.streams.rows import Rows
from lifelong.streams.schedule import ScheduleOptions
from lifelong.streams.seeded import seeded
from lifelong.streams.stream import Stream, Task

Tasks: TypeAlias = int | Sequence[Sequence[int]]
"""How many tasks of equally many classes, or the classes of each task."""

ClassOrder: TypeAlias = str | Sequence[int]
"""'natural', 'random' (by the seed), or all class ids in their order of arrival."""


def class_incremental(
    data: Labelled,
    tasks: Tasks = 5,
    *,
    class_order: ClassOrder = "natural",
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Bring new classes with each task, and test without telling the task.

    Labels are numbered in the order of arrival: with k classes a task, task t has the labels
    t * k to t * k + k - 1. `stream.class_names` keeps the original names.

    Args:
        data: the data set.
        tasks: how many tasks of equally many classes, or a list of each task's classes (as the
            data set numbers them; in unequal numbers, and not all of them, if you like).
        class_order: "natural", "random" (by the seed), or a list of all classes.
        seed: of the class order, of the split and of the order of the rows.
        validation: the share of each class's training rows to set aside.
        limit: at most so many training and so many test rows of each class.
        **schedule: batch, epochs, iterations, drop_last, shuffle; see `Schedule`.

    Raises:
        ValueError: the classes cannot be dealt out as asked.
        EmptyTask: a task has no training rows.

    Example:
        >>> y = torch.tensor([0, 1, 2, 3])
        >>> data = Labelled("toy", torch.zeros(4, 2), y, torch.zeros(4, 2), y, "abcd")
        >>> stream = class_incremental(data, [(3, 0), (2,)])
        >>> [task.classes for task in stream.tasks], stream.class_names
        ([(0, 1), (2,)], ('d', 'a', 'c'))
    """
    groups = _groups(data, tasks, class_order, seed)
    names = [data.class_names[c] for group in groups for c in group]
    train, valid, test = data.parts(validation=validation, limit=limit, seed=seed)
    label, home = _arrival(data, groups), _homes(data, groups)
    parts = [None if part is None else _dealt(part, label, home) for part in (train, valid, test)]
    name = f"class-incremental {data.name}"
    return _stream(data, groups, label, parts, name, names, seed, schedule)


def task_incremental(
    data: Labelled,
    tasks: Tasks = 5,
    *,
    class_order: ClassOrder = "natural",
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Bring new classes with each task, and test with the task told (`stream.task_known`).

    Rows, labels and arguments are those of `class_incremental`.

    Example:
        >>> y = torch.tensor([0, 1, 2, 3])
        >>> data = Labelled("toy", torch.zeros(4, 2), y, torch.zeros(4, 2), y, "abcd")
        >>> task_incremental(data, 2).task_known, class_incremental(data, 2).task_known
        (True, False)
    """
    stream = class_incremental(
        data,
        tasks,
        class_order=class_order,
        seed=seed,
        validation=validation,
        limit=limit,
        **schedule,
    )
    stream.task_known = True
    stream.name = f"task-incremental {data.name}"
    return stream


def domain_incremental(
    data: Labelled,
    tasks: Tasks = 5,
    *,
    class_order: ClassOrder = "natural",
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Ask the same question of new data with each task: which of the task's classes is it?

    The label is the class's number within its task (odd or even, in split MNIST), so that all
    tasks share the outputs, and the task is not told. Arguments as in `class_incremental`.

    Example:
        >>> y = torch.tensor([0, 1, 2, 3])
        >>> data = Labelled("toy", torch.zeros(4, 2), y, torch.zeros(4, 2), y, "abcd")
        >>> stream = domain_incremental(data, 2)
        >>> stream.tasks[1].train.y.tolist(), stream.class_names
        ([0, 1], ('a/c', 'b/d'))
    """
    groups = _groups(data, tasks, class_order, seed)
    widest = max(len(group) for group in groups)
    names = [
        "/".join(data.class_names[group[label]] for group in groups if label < len(group))
        for label in range(widest)
    ]
    train, valid, test = data.parts(validation=validation, limit=limit, seed=seed)
    label, home = torch.zeros(len(data.class_names), dtype=torch.int64), _homes(data, groups)
    for group in groups:
        label[list(group)] = torch.arange(len(group))
    parts = [None if part is None else _dealt(part, label, home) for part in (train, valid, test)]
    name = f"domain-incremental {data.name}"
    return _stream(data, groups, label, parts, name, names, seed, schedule)


def blurry(
    data: Labelled,
    tasks: Tasks = 5,
    *,
    mixing: float = 0.1,
    class_order: ClassOrder = "natural",
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Let a share of each task's training rows come from the classes of the other tasks.

    Every task gives the share `mixing` of its rows away, dealt out evenly to all others; with
    tasks of equal size each thus receives as much as it gives. Test and validation rows stay
    with the task of their class. `task.classes` are all classes that occur in training.
    Bang et al. 2021, arXiv:2103.17230 (Blurry-M, with M = 100 * mixing); Aljundi et al. 2019,
    arXiv:1903.08671. Labels and other arguments as in `class_incremental`.

    Args:
        data, tasks, class_order, seed, validation, limit, schedule: as in `class_incremental`.
        mixing: the share of its rows that a task gives away, 0 or more and less than 1.

    Raises:
        ValueError: `mixing` is no such share, or there is one task only.

    Example:
        >>> y = torch.tensor([0, 1] * 10)
        >>> data = Labelled("toy", torch.zeros(20, 2), y, torch.zeros(20, 2), y, "ab")
        >>> [task.train.y.sum().item() for task in blurry(data, 2, mixing=0.2).tasks]
        [2, 8]
    """
    groups = _groups(data, tasks, class_order, seed)
    if not 0 <= mixing < 1:
        raise ValueError(f"mixing is {mixing}; it must be 0 or more, and less than 1")
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} task cannot be mixed with others; take two or more")
    names = [data.class_names[c] for group in groups for c in group]
    train, valid, test = data.parts(validation=validation, limit=limit, seed=seed)
    label, home = _arrival(data, groups), _homes(data, groups)
    dealt = _dealt(train, label, home)
    dealt = replace(dealt, task=_mixed(dealt.task, len(groups), mixing, seed))
    parts = [
        dealt,
        None if valid is None else _dealt(valid, label, home),
        _dealt(test, label, home),
    ]
    name = f"blurry {mixing} {data.name}"
    return _stream(data, groups, label, parts, name, names, seed, schedule)


def _groups(
    data: Labelled, tasks: Tasks, class_order: ClassOrder, seed: int
) -> list[tuple[int, ...]]:
    """Deal the classes out: the original class ids of each task, in their order of arrival."""
    count = len(data.class_names)
    if not isinstance(tasks, int):
        if class_order != "natural":
            raise ValueError(
                f"class_order is {class_order!r}, but the tasks list their classes, "
                "in order; leave it out"
            )
        groups = [tuple(int(c) for c in group) for group in tasks]
        flat = [c for group in groups for c in group]
        wrong = sorted({c for c in flat if not 0 <= c < count or flat.count(c) > 1})
        if wrong or not groups or not all(groups):
            raise ValueError(
                f"the tasks are {groups}; give each one class or more, each class once, of the "
                f"{count} of {data.name}" + (f" (see {wrong})" if wrong else "")
            )
        return groups
    if tasks < 1 or count % tasks:
        fit = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"{count} classes of {data.name} cannot be split in {tasks} tasks evenly; take one of "
            f"{fit}, or list the classes of each task"
        )
    if class_order == "natural":
        order = list(range(count))
    elif class_order == "random":
        order = torch.randperm(count, generator=seeded(seed, "classes")).tolist()
    elif isinstance(class_order, str) or sorted(class_order) != list(range(count)):
        raise ValueError(
            f"class_order is {class_order!r}; it must be 'natural', 'random' or a list of all "
            f"{count} class ids of {data.name}"
        )
    else:
        order = list(class_order)
    size = count // tasks
    return [tuple(order[t * size : (t + 1) * size]) for t in range(tasks)]


def _arrival(data: Labelled, groups: list[tuple[int, ...]]) -> Tensor:
    """Map class ids to their order of arrival: (classes,)."""
    label = torch.zeros(len(data.class_names), dtype=torch.int64)
    order = [c for group in groups for c in group]
    label[order] = torch.arange(len(order))
    return label


def _homes(data: Labelled, groups: list[tuple[int, ...]]) -> Tensor:
    """Map class ids to the task they come with, -1 for none: (classes,)."""
    home = torch.full((len(data.class_names),), -1, dtype=torch.int64)
    for task, group in enumerate(groups):
        home[list(group)] = task
    return home


def _dealt(rows: Rows, label: Tensor, home: Tensor) -> Rows:
    return Rows(rows.x, label[rows.y], home[rows.y], rows.key)


def _mixed(task: Tensor, tasks: int, mixing: float, seed: int) -> Tensor:
    """Deal a share of each task's rows out to the others, in turn: (rows,) task ids."""
    mixed = task.clone()
    for giver in range(tasks):
        own = (task == giver).nonzero().flatten()
        chosen = torch.randperm(len(own), generator=seeded(seed, "blurry", giver))
        given = own[chosen[: round(mixing * len(own))]]
        mixed[given] = (giver + 1 + torch.arange(len(given)) % (tasks - 1)) % tasks
    return mixed


def _stream(
    data: Labelled,
    groups: list[tuple[int, ...]],
    label: Tensor,
    parts: list[Rows | None],
    name: str,
    class_names: list[str],
    seed: int,
    schedule: ScheduleOptions,
) -> Stream:
    train, valid, test = (None if part is None else _by_task(part, len(groups)) for part in parts)
    assert train is not None
    assert test is not None
    tasks = []
    for t, group in enumerate(groups):
        occurring = {*label[list(group)].tolist(), *train[t].y.bincount().nonzero()[:, 0].tolist()}
        classes = tuple(sorted(occurring))
        title = ", ".join(data.class_names[c] for c in group)
        rows = None if valid is None else valid[t]
        tasks.append(Task(t, classes, title, train[t], test[t], rows))
    return Stream(tasks, seed=seed, name=name, class_names=class_names, **schedule)


def _by_task(rows: Rows, tasks: int) -> list[Rows]:
    """Bring each task's rows together, in their order: one copy, and a view of it for each."""
    order = torch.argsort(rows.task, stable=True)
    order = order[rows.task[order] >= 0]
    together = rows.subset(order)
    ends = torch.bincount(together.task, minlength=tasks).cumsum(0).tolist()
    return [together.subset(slice(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
