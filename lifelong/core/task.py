"""What a learner is told about a task: its id and its classes, and where its rows are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from lifelong.core.batch import Batch


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task's id (0 or more) and the class ids that its labels come from (empty if unknown)."""

    id: int
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, int) or self.id < 0:
            raise ValueError(f"task id {self.id!r}; it must be an integer of 0 or more")
        if not isinstance(self.classes, Iterable):
            raise ValueError(
                f"task {self.id} has classes {self.classes!r}; name them: classes=(2, 3)"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"task {self.id} has classes {list(self.classes)}; name each once")


class TaskLike(Protocol):
    """Anything with an id and classes, such as a stream's task."""

    @property
    def id(self) -> int:
        """The task's id, 0 or more."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The class ids of the task's labels; empty where there are none."""


@runtime_checkable
class HasData(Protocol):
    """A task that carries its training rows, to be passed over once more when it ends."""

    @property
    def data(self) -> Iterable[Batch]:
        """The task's training rows, in batches, as often as one iterates."""


@runtime_checkable
class Growing(Protocol):
    """A module that grows for a task: a head with new outputs, an adapter, a column."""

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add what the task needs and return the new parameters (none, if nothing is needed).

        Growing twice for the same task adds nothing. Existing parameters are left alone, unless the
        module says `rewrites = True`: then they are put back where growing is refused. Those of the
        task that were there before may be returned, too: an optimizer holds each once.
        """
