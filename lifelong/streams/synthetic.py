"""Streams made by a formula, whose drift is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lifelong.streams.rows import Rows
from lifelong.streams.schedule import ScheduleOptions
from lifelong.streams.seeded import seeded
from lifelong.streams.stream import Drift, Stream, Task

KINDS = ("none", "abrupt", "gradual", "incremental", "recurring")
MOTIONS = ("shift", "rotation")


def gaussians(
    rows: int = 2000,
    *,
    kind: str = "abrupt",
    motion: str = "shift",
    magnitude: float = 3.0,
    at: Sequence[float] = (0.5,),
    duration: float = 0.2,
    classes: int = 3,
    features: int = 2,
    separation: float = 4.0,
    tasks: int = 1,
    test_rows: int = 200,
    seed: int = 0,
    **schedule: Unpack[ScheduleOptions],
) -> Stream:
    """Draw rows in order of time from Gaussian clusters, one a class, that drift as told.

    A row of class c is its centre plus standard normal noise, so that distances are in standard
    deviations of a cluster. The kinds follow Gama et al. 2014, "A survey on concept drift
    adaptation" (doi:10.1145/2523813). At each change point the concept gives way to the next:

    - none: nothing changes.
    - abrupt: at once.
    - gradual: rows of the new concept appear among those of the old, ever more of them.
    - incremental: the centres themselves move, evenly.
    - recurring: at once, and to and fro between two concepts.

    `stream.drift` tells where each change starts and stops, as row numbers over the stream in
    its order of time, in which rows are delivered unless `shuffle=True` is asked for.

    Args:
        rows: of the whole stream.
        kind: see above.
        motion: "shift" moves each centre by `magnitude` in a random direction of its own;
            "rotation" turns all centres by `magnitude` degrees about 0, in the first two features.
        magnitude: how far one change goes, in standard deviations or in degrees.
        at: where the changes start, as ascending shares of the stream, above 0 and below 1.
        duration: how long a gradual or incremental change takes, as a share of the stream.
        classes: how many clusters; labels are drawn evenly.
        features: of a row.
        separation: the distance of the centres from 0 at the start.
        tasks: how many tasks to cut the stream into, of equally many rows (one more or less).
        test_rows: of each task, drawn as at the task's last training row.
        seed: of the centres and the rows.
        **schedule: batch, epochs, iterations, drop_last, shuffle (here False by default).

    Raises:
        ValueError: an argument lies outside what is said above.

    Example:
        >>> stream = gaussians(1000, kind="gradual", at=(0.5,), duration=0.1)
        >>> stream.drift, stream.tasks[0].train.x.shape
        ((Drift(start=500, stop=600),), torch.Size([1000, 2]))
    """
    _check(rows, kind, motion, at, duration, classes, features, tasks, test_rows)
    changes = () if kind == "none" else tuple(at)
    lasts = duration if kind in ("gradual", "incremental") else 0.0
    drift = [
        Drift(round(start * rows), min(rows, round((start + lasts) * rows))) for start in changes
    ]
    centres = _moving(motion, magnitude, (classes, features), separation, len(changes), seed)
    progress = _progress(rows, drift)
    size = rows / tasks
    edges = [round(task * size) for task in range(tasks + 1)]

    def draw(progress: Tensor, what: str, task: int, first_key: int) -> Rows:
        source = seeded(seed, what, task)
        if kind == "gradual":
            chance = torch.rand(len(progress), generator=source)
            progress = (progress.floor() + (chance < progress.frac())).float()
        elif kind == "recurring":
            progress = progress % 2
        y = torch.randint(classes, (len(progress),), generator=source)
        x = centres(progress)[torch.arange(len(y)), y]
        x = x + torch.randn(len(y), features, generator=source)
        return Rows.of(x, y, task=task, first_key=first_key)

    schedule.setdefault("shuffle", False)
    parts = []
    for task in range(tasks):
        own = progress[edges[task] : edges[task + 1]]
        train = draw(own, "train", task, edges[task])
        test = draw(own[-1:].expand(test_rows), "test", task, rows + task * test_rows)
        parts.append(Task(task, tuple(range(classes)), f"part {task}", train, test))
    return Stream(
        parts,
        seed=seed,
        name=f"gaussians ({kind} {motion})",
        class_names=[f"cluster {c}" for c in range(classes)],
        drift=drift,
        **schedule,
    )


def _moving(
    motion: str,
    magnitude: float,
    shape: tuple[int, int],
    separation: float,
    changes: int,
    seed: int,
) -> Callable[[Tensor], Tensor]:
    """Make the centres a function of progress: (rows,) -> (rows, classes, features)."""
    source = seeded(seed, "centres")
    start = separation * normalize(torch.randn(shape, generator=source), dim=1)
    steps = magnitude * normalize(torch.randn(changes + 1, *shape, generator=source), dim=2)
    done = torch.cat((torch.zeros_like(steps[:1]), steps.cumsum(0)))

    def shifted(progress: Tensor) -> Tensor:
        whole = progress.floor().long()
        return start + done[whole] + progress.frac()[:, None, None] * steps[whole]

    def turned(progress: Tensor) -> Tensor:
        angle = math.radians(magnitude) * progress[:, None]
        centres = start.expand(len(progress), -1, -1).clone()
        centres[:, :, 0] = start[:, 0] * angle.cos() - start[:, 1] * angle.sin()
        centres[:, :, 1] = start[:, 0] * angle.sin() + start[:, 1] * angle.cos()
        return centres

    return shifted if motion == "shift" else turned


def _progress(rows: int, drift: Sequence[Drift]) -> Tensor:
    """Count the changes that lie behind each row, fractions included: (rows,)."""
    row = torch.arange(rows)
    progress = torch.zeros(rows)
    for start, stop in drift:
        # A change at once is over on its first row.
        behind = row - start if stop > start else row - start + 1
        progress += (behind / max(stop - start, 1)).clamp(0, 1)
    return progress


def _check(
    rows: int,
    kind: str,
    motion: str,
    at: Sequence[float],
    duration: float,
    classes: int,
    features: int,
    tasks: int,
    test_rows: int,
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if motion not in MOTIONS:
        raise ValueError(f"motion is {motion!r}; it must be one of {', '.join(MOTIONS)}")
    if motion == "rotation" and features < 2:
        raise ValueError(f"{features} feature cannot be rotated; take 2 or more")
    for name, value in (
        ("classes", classes),
        ("features", features),
        ("tasks", tasks),
        ("test_rows", test_rows),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if rows < tasks:
        raise ValueError(f"{rows} rows for {tasks} tasks; take one or more for each")
    ends = [*at[1:], 1.0]
    lasts = duration if kind in ("gradual", "incremental") else 0.0
    if any(not 0 < start < 1 for start in at) or sorted(set(at)) != list(at):
        raise ValueError(f"changes at {tuple(at)}; give ascending shares above 0 and below 1")
    if lasts < 0 or any(start + lasts > end + 1e-9 for start, end in zip(at, ends, strict=True)):
        raise ValueError(
            f"changes at {tuple(at)} that last {duration} overlap, or outlast the stream; "
            "shorten them or set them apart"
        )
