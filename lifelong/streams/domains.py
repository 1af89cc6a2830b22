"""Streams that show one data set again and again in another guise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from lifelong.streams.labelled import Labelled
from lifelong.streams.rows import Rows
from lifelong.streams.schedule import ScheduleOptions
from lifelong.streams.seeded import seeded
from lifelong.streams.stream import Stream, Task


def permuted(
    data: Labelled,
    tasks: int = 10,
    *,
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Shuffle the pixels (or features) of every row in each task's own, fixed way.

    The first task keeps them as they are. The channels of an image are shuffled alike.
    Goodfellow et al. 2013, arXiv:1312.6211. A row has the same key in every task, as it is the
    same row of the data set. Every task holds a copy of the data set in memory.

    Args:
        data: the data set, with inputs of one tensor.
        tasks: how many.
        seed, validation, limit, schedule: as in `class_incremental`.

    Raises:
        ValueError: `tasks` is less than 1, or the inputs are not one tensor of features.

    Example:
        >>> x, y = torch.arange(8.0).view(2, 4), torch.tensor([0, 1])
        >>> first, second = permuted(Labelled("toy", x, y, x, y, "ab"), tasks=2, seed=1).tasks
        >>> first.train.x.equal(x), second.train.x.equal(x), second.train.x.sort().values.equal(x)
        (True, False, True)
    """
    shape = _row_shape(data)
    features = math.prod(shape[-2:] if len(shape) == 3 else shape)

    def guise(task: int, x: Tensor) -> Tensor:
        if not task:
            return x
        order = torch.randperm(features, generator=seeded(seed, "permutation", task))
        groups = shape[:1] if len(shape) == 3 else ()
        flat = x.reshape(len(x), *groups, features).numpy()
        # numpy gathers along the last axis several times as fast as torch does.
        return torch.from_numpy(np.take(flat, order.numpy(), axis=-1)).view(x.shape)

    titles = [f"permutation {task}" if task else "as it is" for task in range(tasks)]
    train, valid, test = data.parts(validation=validation, limit=limit, seed=seed)
    return _domains(data, titles, guise, (train, valid, test), "permuted", seed, schedule)


def rotated(
    data: Labelled,
    tasks: int = 5,
    degrees: float | Sequence[float] = 180.0,
    *,
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Turn every image counter-clockwise by each task's own angle, about its centre.

    Pixels in between are interpolated bilinearly, what comes in from outside is 0.
    Lopez-Paz & Ranzato 2017, arXiv:1706.08840. A row has the same key in every task, as it is
    the same row of the data set. Every task holds a copy of the data set in memory.

    Args:
        data: the data set, with images of shape (rows, channels, height, width).
        tasks: how many.
        degrees: the last task's angle (the first has 0, those between lie evenly), or a list of
            one angle for each task.
        seed, validation, limit, schedule: as in `class_incremental`.

    Raises:
        ValueError: the inputs are not images, `tasks` is less than 1, or the list of angles is of
            another length.

    Example:
        >>> x, y = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8), torch.tensor([0])
        >>> stream = rotated(Labelled("toy", x, y, x, y, "a"), tasks=2, degrees=90)
        >>> stream.tasks[1].train.x.tolist(), stream.tasks[1].name
        ([[[[2, 4], [1, 3]]]], '90 degrees')
    """
    shape = _row_shape(data)
    if len(shape) != 3:
        raise ValueError(
            f"the rows of {data.name} have shape {shape}; only images of shape "
            "(channels, height, width) can be rotated"
        )
    if not isinstance(degrees, Sequence):
        degrees = [degrees * task / max(tasks - 1, 1) for task in range(tasks)]
    if len(degrees) != tasks:
        raise ValueError(f"{len(degrees)} angles for {tasks} tasks; give one for each")
    angles = [float(angle) for angle in degrees]

    def guise(task: int, x: Tensor) -> Tensor:
        return rotate(x, angles[task])

    titles = [f"{angle:g} degrees" for angle in angles]
    train, valid, test = data.parts(validation=validation, limit=limit, seed=seed)
    return _domains(data, titles, guise, (train, valid, test), "rotated", seed, schedule)


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turn images (rows, channels, height, width) counter-clockwise; the dtype stays.

    Example:
        >>> rotate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 180).round().tolist()
        [[[[4.0, 3.0], [2.0, 1.0]]]]
    """
    if degrees % 360 == 0:
        return images
    _, _, height, width = images.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Coordinates run from -1 to 1 along both sides, so the sides' ratio enters.
    turn = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = torch.nn.functional.affine_grid(turn[None], [1, 1, height, width], align_corners=False)
    turned = torch.empty_like(images)
    for start in range(0, len(images), 1024):
        part = images[start : start + 1024].float()
        part = torch.nn.functional.grid_sample(
            part, grid.expand(len(part), -1, -1, -1), align_corners=False
        )
        if not images.is_floating_point():
            part = part.round()
        turned[start : start + 1024] = part.to(images.dtype)
    return turned


def _row_shape(data: Labelled) -> tuple[int, ...]:
    if not isinstance(data.train_x, Tensor) or data.train_x.ndim < 2:
        raise ValueError(f"the inputs of {data.name} are not one tensor of shape (rows, ...)")
    return tuple(data.train_x.shape[1:])


def _domains(
    data: Labelled,
    titles: list[str],
    guise: Callable[[int, Tensor], Tensor],
    parts: tuple[Rows, Rows | None, Rows],
    kind: str,
    seed: int,
    schedule: ScheduleOptions,
) -> Stream:
    def shown(rows: Rows, task: int) -> Rows:
        assert isinstance(rows.x, Tensor)
        return Rows(guise(task, rows.x), rows.y, torch.full_like(rows.key, task), rows.key)

    train, valid, test = parts
    classes = tuple(range(len(data.class_names)))
    tasks = [
        Task(
            task,
            classes,
            title,
            shown(train, task),
            shown(test, task),
            None if valid is None else shown(valid, task),
        )
        for task, title in enumerate(titles)
    ]
    return Stream(
        tasks,
        seed=seed,
        name=f"{kind} {data.name}",
        class_names=tuple(data.class_names),
        **schedule,
    )
