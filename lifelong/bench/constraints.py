"""What a method has to keep to: room, privacy, time, and what is known of the stream."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import inf
from numbers import Integral, Real
from typing import Literal, get_args

from lifelong.bench.rules import read_rules
from lifelong.core.errors import UnknownName
from lifelong.memory.budget import bytes_of

Privacy = Literal["rows", "statistics", "nothing"]
Increment = Literal["class", "domain", "task"]
Place = Literal["server", "edge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a method has to keep to; None where nothing is said.

    Attributes:
        tasks: how many there will be.
        storage: bytes for all that is kept of the past beside the model, such as "100MB"; 0.
        privacy: what may be kept of past rows: "rows" themselves, "statistics" (sums, moments,
            bases, a generator), or "nothing" but weights. By default rows, or nothing if there
            is no storage.
        compute: how many times the cost of fine-tuning may be paid. On the edge 3 by default.
        boundaries: whether somebody tells when a task ends.
        task_known: whether rows come with their task when they are to be predicted.
        place: "server" or "edge"; of methods that are even, the edge takes the one that keeps
            fewest bytes, a server the fastest.
        increment: what a task adds: "class"es, a "domain" of the same classes, or a "task" that
            is told. By default a task if `task_known`, else classes, which is the hardest.
        online: whether each row is learned from once.
        pretrained: whether there is a pretrained backbone that can stay as it is.
        row_bytes: of one row's inputs.
        classes: how many there will be.
        parameters: of the model.

    Raises:
        UnknownName: a value of privacy, place or increment that does not exist.
        ValueError: a number that makes no sense, or two constraints that contradict each other.
    """

    tasks: int | None = None
    storage: int | str | None = None
    privacy: Privacy | None = None
    compute: float | None = None
    boundaries: bool = True
    task_known: bool | None = None
    place: Place = "server"
    increment: Increment | None = None
    online: bool = False
    pretrained: bool = False
    row_bytes: int | None = None
    classes: int | None = None
    parameters: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("privacy", Privacy), ("place", Place), ("increment", Increment)):
            value = getattr(self, name)
            if value is not None and value not in get_args(known):
                raise UnknownName(name, str(value), get_args(known))
        for name in ("tasks", "row_bytes", "classes", "parameters"):
            value = getattr(self, name)
            if value is not None and not (_is(Integral, value) and value >= 1):
                raise ValueError(f"{name} is {value!r}; it must be a whole number of 1 or more")
        compute = self.compute
        if compute is not None and not (_is(Real, compute) and 1 <= compute < inf):
            raise ValueError(f"compute is {compute!r}; it must be a finite number of 1 or more")
        room = room_of(self.storage)
        if room == 0 and self.privacy not in (None, "nothing"):
            raise ValueError(
                f"privacy is {self.privacy!r}, so something of past rows may be kept, but storage "
                "is 0; give it a size, such as 10MB, or leave privacy out"
            )
        if self.increment == "task" and self.task_known is False:
            raise ValueError(
                "increment is 'task', which means that the task is told, but task_known is False; "
                "leave it out, or take the increment 'class' or 'domain'"
            )
        if self.increment == "class" and self.task_known:
            raise ValueError(
                "increment is 'class' and the task is known at test time, which makes it easier: "
                "take the increment 'task'"
            )
        if not self.boundaries and (self.task_known or self.increment == "task"):
            raise ValueError(
                "boundaries are not known, but the task of a row is; who tells tasks apart knows "
                "where they end: leave boundaries as they are, or the task unknown"
            )

    def settled(self) -> Constraints:
        """Fill in what follows from the rest.

        Example:
            >>> Constraints(storage="1KB", task_known=True).settled().increment
            'task'
        """
        room = room_of(self.storage)
        edge = read_rules().edge_cost if self.place == "edge" else None
        increment = self.increment or ("task" if self.task_known else "class")
        return replace(
            self,
            storage=room,
            privacy=self.privacy or ("nothing" if room == 0 else "rows"),
            compute=edge if self.compute is None else self.compute,
            increment=increment,
            task_known=self.task_known or increment == "task",
        )


def room_of(storage: int | str | None) -> int | None:
    """Read a room in bytes, which may be none at all.

    Raises:
        ValueError: it is no number of bytes.

    Example:
        >>> room_of("10MB"), room_of("0"), room_of(None)
        (10000000, 0, None)
    """
    if storage is None:
        return None
    if _is(Integral, storage) and int(storage) >= 0:
        return int(storage)
    if not isinstance(storage, str):
        raise ValueError(
            f"storage is {storage!r}; give a whole number of bytes, a text such as 100MB, or 0"
        )
    if re.fullmatch(r"0+[a-zA-Z]*", storage.strip()):
        return 0
    try:
        return bytes_of(storage)
    except ValueError:
        raise ValueError(
            f"storage is {storage!r}; give bytes with a unit, such as 200KB, 10MB or 1.5GiB, or 0"
        ) from None


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
