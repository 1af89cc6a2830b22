"""The log as it was at an offset, and what of it has been taken back since."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lifelong.core.errors import ConfigError
from lifelong.serve.config import Config
from lifelong.serve.events import Event
from lifelong.serve.history import History
from lifelong.serve.log import SQLiteLog


@dataclass(frozen=True, slots=True)
class Turn:
    """An event at which the trainer went back, to learn again from an earlier place.

    Attributes:
        event: its offset.
        first: the first offset whose learning it took back.
        rollback: whether rows from `first` to `event` are out since then; an erasure has removed
            its events from the log itself.
        id: of the event.
        forget: whether it names rows that were learned from events trimmed before.
    """

    event: int
    first: int
    rollback: bool
    id: str
    forget: bool


def turns(log: SQLiteLog) -> list[Turn]:
    """Return all events of a log at which a trainer goes back, in order.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, SQLiteLog(folder, write=True) as log:
        ...     _ = log.append([Event("decision", "d", 0.0, {"discard_after": 0})])
        ...     turns(log)
        [Turn(event=1, first=1, rollback=True, id='d', forget=False)]
    """
    found = []
    for event in log.of_kinds("erasure", "decision"):
        if event.kind == "erasure":
            first = int(event.data["first"])
        elif "discard_after" in event.data:
            first = int(event.data["discard_after"]) + 1
        else:
            continue
        rollback, forget = event.kind == "decision", bool(event.data.get("forget"))
        found.append(Turn(event.offset, first, rollback, event.id, forget))
    return found


class Upto:
    """A log that ends at an offset, for reading.

    What it gives for an event depends on the events up to it alone, as a trainer's rows do: the
    label of a prediction may lie beyond the end, and then makes no row before it.

    Args:
        log: as it stands now.
        end: the last offset to read.
    """

    def __init__(self, log: SQLiteLog, end: int) -> None:
        self.log = log
        self.end = end

    def append(self, events: Sequence[Event]) -> list[int]:
        """Refuse: what was is not changed.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{len(events)} events for a log that is only looked at")

    def read(self, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with offsets above `after`, in order."""
        found = self.log.read(after, limit)
        while found and found[-1].offset > self.end:
            found.pop()
        return found

    def find(self, id: str) -> Event | None:
        """Return the event with this id."""
        return self.log.find(id)

    def label_of(self, prediction: str) -> Event | None:
        """Return the first label about this prediction."""
        return self.log.label_of(prediction)

    @property
    def last(self) -> int:
        """The offset of the newest event."""
        return min(self.end, self.log.last)


def already(folder: Path, gone_back: Iterable[Turn]) -> None:
    """Have a trainer begin in a folder as if it had gone back for these events before.

    It then reads the log once: what it comes to is the same, since the learner before the first
    row that was taken back does not depend on those that follow.
    """
    history = History(folder)
    for turn in gone_back:
        if turn.rollback:
            history.discard(turn.first, turn.event)
        if not history.is_done(turn.event):
            history.done(turn.event)


def log_of(folder: Path) -> SQLiteLog:
    """Open the log of a service's folder, or the folder that a log is in, for reading.

    Raises:
        ConfigError: there is no log in it.
    """
    for place in (folder / "log", folder):
        if (place / "events.db").is_file():
            return SQLiteLog(place)
    raise ConfigError(
        f"{folder} is not the folder of a service: it has no log/events.db; give the folder that "
        "`lifelong serve` wrote"
    )


def config_of(folder: Path, path: Path | None = None) -> Config:
    """Read a service's configuration: the one given, or the one beside its folder that names it.

    Raises:
        ConfigError: none, or more than one, beside the folder names it.
    """
    if path is not None:
        return Config.read(path)
    if folder.name == "log":
        folder = folder.parent
    found = []
    for near in sorted([*folder.absolute().parent.glob("*.y*ml")]):
        with contextlib.suppress(ConfigError):
            config = Config.read(near)
            if config.folder.resolve() == folder.resolve():
                found.append(config)
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} configurations beside {folder} name it as their folder; "
            "say which it is with --config CONFIG.yaml"
        )
    return found[0]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread, as the service's trainer does: to the same last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
