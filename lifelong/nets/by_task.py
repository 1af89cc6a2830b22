"""Rows that mix tasks, through networks that compute otherwise for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lifelong.core.errors import UnknownTask
from lifelong.core.task import TaskSpec


def each_task(
    task: Tensor | None, known: Sequence[int], run: Callable[[int, Tensor | None], Tensor]
) -> Tensor:
    """Run a network once for each task among the rows, and put the outputs back in their order.

    Rows of task -1 (not known), and all rows where task is None, are those of the newest task.
    Which tasks there are is read from the ids, once a call: on a GPU that waits for the device.

    Args:
        task: (rows,) int64 task ids, or None.
        known: the ids of the tasks that the network has grown for, in order.
        run: computes the outputs of one task's rows, from its place among the known ones and from
            the rows' index, None for all rows.

    Raises:
        UnknownTask: a task that is not known, or none is.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0])
        >>> def run(place, rows):
        ...     return 10 * place + (x if rows is None else x[rows])
        >>> each_task(torch.tensor([7, 4, 7]), [4, 7], run)
        tensor([11.,  2., 13.])
    """
    if not known:
        raise UnknownTask(
            "this network has grown for no task yet; begin one: "
            "begin_task(TaskSpec(0, classes=(0, 1)))"
        )
    ids = [] if task is None else torch.unique(task).tolist()
    places = {-1: len(known) - 1, **{id: place for place, id in enumerate(known)}}
    if unknown := [id for id in ids if id not in places]:
        raise UnknownTask(
            f"task {', '.join(map(str, unknown))} is not known to this network, which has grown "
            f"for {list(known)}; grow for it first, with begin_task(TaskSpec(id, classes=...)), or "
            "pass -1 where the task is not known"
        )
    if task is None or len(ids) < 2:
        return run(places[ids[0] if ids else -1], None)
    groups = [(places[id], (task == id).nonzero().flatten()) for id in ids]
    parts = torch.cat([run(place, rows) for place, rows in groups])
    return parts[torch.cat([rows for _, rows in groups]).argsort()]


def is_newest(known: Sequence[int], task: TaskSpec) -> bool:
    """Tell whether a network has grown for a task just before, so that it need not again.

    Raises:
        ValueError: it has grown for others since, and what the task learned is frozen.

    Example:
        >>> is_newest([4, 7], TaskSpec(7)), is_newest([4, 7], TaskSpec(8))
        (True, False)
    """
    if task.id in known[:-1]:
        raise ValueError(
            f"task {task.id} is frozen since task {known[-1]} began; "
            "begin a task with an id of its own, or replay its rows"
        )
    return task.id in known
