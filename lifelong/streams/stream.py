"""Tasks one after the other, each delivered in batches, with a cursor to resume from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lifelong.core.batch import Batch
from lifelong.core.errors import EmptyTask, StateMismatch
from lifelong.streams.rows import Rows
from lifelong.streams.schedule import Schedule


class Drift(NamedTuple):
    """A true change of the data: it sets in at row `start` of the stream, is over by row `stop`."""

    start: int
    stop: int


@dataclass(slots=True)
class Place:
    """How many batches of a task have been delivered, and whether it was passed to its end."""

    batch: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A task's rows. Iterating gives its training batches in the schedule's order.

    A task that comes out of `for task in stream` is read as a file is: it goes on after the
    last batch that it delivered. One taken from `stream.tasks` starts over each time.

    Attributes:
        id: 0 or more, unique in the stream.
        classes: the class ids that its training labels come from.
        name: to be shown.
        train, test: rows to learn from and to be measured on.
        valid: rows to choose hyperparameters on, or None.
        schedule: set by the stream.

    Raises:
        RuntimeError: a task from `for task in stream` is iterated once more after its end.

    Example:
        >>> import torch
        >>> rows = Rows.of(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]))
        >>> task = Task(0, (0, 1), "zeros", rows, rows, schedule=Schedule(batch=2))
        >>> len(task), [len(batch) for batch in task]
        (3, [2, 2, 1])
    """

    id: int
    classes: tuple[int, ...]
    name: str
    train: Rows
    test: Rows
    valid: Rows | None = None
    schedule: Schedule = field(default_factory=Schedule)
    place: Place | None = field(default=None, repr=False)

    @property
    def data(self) -> Rows:
        """The training rows, in order, for a last pass when the task ends; moves no cursor."""
        return self.train

    def __len__(self) -> int:
        return self.schedule.batches(len(self.train))

    def __iter__(self) -> Iterator[Batch]:
        place = Place() if self.place is None else self.place
        if place.finished:
            raise RuntimeError(
                f"all {len(self)} batches of task {self.name!r} have been delivered; for more "
                "passes give the stream `epochs`, for one to look at take it from `stream.tasks`"
            )
        return self._deliver(place)

    def _deliver(self, place: Place) -> Iterator[Batch]:
        rows, total = len(self.train), len(self)
        size, in_pass = self.schedule.batch, self.schedule.batches_in_pass(rows)
        epoch = -1
        while place.batch < total:
            now, at = divmod(place.batch, in_pass)
            if now != epoch:
                order = self.schedule.order(self.id, now, rows).to(self.train.y.device)
                epoch = now
            place.batch += 1
            yield self.train.take(order[at * size : (at + 1) * size])
        place.finished = True


class Stream:
    """A sequence of tasks to learn, in an order that can be interrupted and resumed.

        for task in stream:
            learner.begin_task(task)
            for batch in task:
                learner.observe(batch)
            learner.end_task(task)

    The batches are a pure function of the tasks, the schedule and its seed. `state_dict` taken
    anywhere in this loop and loaded into an equal stream makes the next loop start at the same
    task and deliver exactly the batches that had not been delivered. A task whose batches were
    all delivered, but which the loop had not left, comes once more with none left, so that it
    can be ended. Without a loaded state every loop starts at the first task.

    Attributes:
        tasks: all tasks.
        tests: the rows to be measured on, one part a task (for `joint`: the original tasks').
        schedule: how each task is delivered.
        name: to be shown, and compared when a state is loaded.
        class_names: the name of each class id; empty if there are none.
        task_known: whether the task id may be used at test time (task-incremental learning).
        drift: the true changes in the data, where they are known.

    Args:
        tasks: one or more, with distinct ids.
        batch, epochs, iterations, seed, drop_last, shuffle: see `Schedule`.
        name, class_names, task_known, tests, drift: see above.

    Raises:
        EmptyTask: a task has no training rows.
        ValueError: there are no tasks, ids repeat, or the schedule makes no sense.

    Example:
        >>> import torch
        >>> rows = Rows.of(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]))
        >>> stream = Stream([Task(0, (0, 1), "zeros", rows, rows)], batch=2)
        >>> loop = iter(next(iter(stream)))
        >>> _ = next(loop), next(loop)
        >>> stream.cursor
        {'task': 0, 'batch': 2}
        >>> again = Stream(stream.tasks, batch=2)
        >>> again.load_state_dict(stream.state_dict())
        >>> [len(batch) for task in again for batch in task]
        [1]
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        batch: int = 128,
        epochs: int = 1,
        iterations: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        shuffle: bool = True,
        name: str = "stream",
        class_names: Sequence[str] = (),
        task_known: bool = False,
        tests: Sequence[Rows] | None = None,
        drift: Sequence[Drift] = (),
    ) -> None:
        self.schedule = Schedule(batch, epochs, iterations, seed, drop_last, shuffle)
        if not tasks:
            raise ValueError("a stream of 0 tasks; give it one or more")
        for task in tasks:
            if not len(task.train):
                raise EmptyTask(f"task {task.name!r} has no training rows; leave it out")
        ids = [task.id for task in tasks]
        if len(set(ids)) != len(ids):
            raise ValueError(f"the ids of the tasks are {ids}; give each task its own")
        self.tasks = tuple(replace(task, schedule=self.schedule, place=None) for task in tasks)
        self.tests = tuple(task.test for task in tasks) if tests is None else tuple(tests)
        self.name = name
        self.class_names = tuple(class_names)
        self.task_known = task_known
        self.drift = tuple(drift)
        self._start = (0, 0)
        self._position, self._place = 0, Place()
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        rows = sum(len(task.train) for task in self.tasks)
        return f"Stream({self.name!r}, {len(self)} tasks, {rows} rows)"

    def __iter__(self) -> Iterator[Task]:
        start, batch = self._start
        self._start = (0, 0)
        for position in range(start, len(self.tasks)):
            place = Place(batch if position == start else 0)
            self._position, self._place = position, place
            yield replace(self.tasks[position], place=place)
        self._position, self._place = len(self.tasks), Place()

    @property
    def cursor(self) -> dict[str, int]:
        """Where the latest loop stands: the task's position, and its batches delivered so far.

        The task is `len(stream)` when the loop is over.
        """
        return {"task": self._position, "batch": self._place.batch}

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor, and what the order of the batches depends on."""
        return {**self.cursor, "schedule": self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next loop go on from a cursor; a loop under way is left alone.

        Raises:
            StateMismatch: the state is of another stream or schedule, or is not whole.
        """
        if set(state) != {"task", "batch", "schedule"}:
            raise StateMismatch(
                f"the state of a stream has {sorted(state)}; it needs batch, schedule and task"
            )
        given, own = dict(state["schedule"]), self._fingerprint()
        differing = [
            f"{name} is {given.get(name, 'not set')} there and {own.get(name, 'not set')} here"
            for name in sorted(own.keys() | given.keys())
            if given.get(name) != own.get(name)
        ]
        if differing:
            raise StateMismatch(f"the state is of another stream: {'; '.join(differing)}")
        task, batch = int(state["task"]), int(state["batch"])
        most = len(self.tasks[task]) if 0 <= task < len(self.tasks) else 0
        if not 0 <= task <= len(self.tasks) or not 0 <= batch <= most:
            raise StateMismatch(
                f"the cursor is at task {task}, batch {batch}; this stream has "
                f"{len(self.tasks)} tasks of {[len(each) for each in self.tasks]} batches"
            )
        self._start = (task, batch)
        self._position, self._place = task, Place(batch)

    def _fingerprint(self) -> dict[str, int | str | list[int]]:
        schedule = self.schedule
        told: dict[str, int | str | list[int]] = {
            "name": self.name,
            "seed": schedule.seed,
            "batch": schedule.batch,
            "drop_last": int(schedule.drop_last),
            "shuffle": int(schedule.shuffle),
            "rows": [len(task.train) for task in self.tasks],
            "keys": self._keys(),
        }
        if schedule.iterations is None:
            return {**told, "epochs": schedule.epochs}
        return {**told, "iterations": schedule.iterations}

    def _keys(self) -> str:
        """Digest which rows each task has, so that another split of the same sizes is told."""
        if self._digest is None:
            digest = hashlib.sha256()
            for task in self.tasks:
                digest.update(f"{task.id} {len(task.train)} ".encode())
                digest.update(task.train.key.cpu().numpy().tobytes())
            self._digest = digest.hexdigest()[:16]
        return self._digest
