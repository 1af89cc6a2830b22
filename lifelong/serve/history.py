"""A trainer's checkpoints by offset, and what it must not learn again."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from lifelong.core import checkpoint
from lifelong.core.errors import CheckpointError

_log = logging.getLogger("lifelong.serve")
RECENT = 3
"""Checkpoints kept whatever their offsets."""


class History:
    """Checkpoints of one trainer, the newer the denser, and two lists that outlive going back.

    Of the checkpoints before the last three, one is kept for each power of two of the distance to
    the newest: so going back to an offset n repeats about as many events as have come since n, and
    the number of files grows with the logarithm of the log.

    Args:
        folder: the trainer's own.

    Raises:
        CheckpointError: the lists are damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = History(Path(folder))
        ...     _ = [history.save(offset, {"n": offset}) for offset in range(1, 20)]
        ...     history.offsets, history.latest(before=17)["n"]
        ([1, 9, 13, 16, 17, 18, 19], 17)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lists = folder / "history.json"
        self._done: set[int] = set()
        self.ranges: list[tuple[int, int]] = []
        """Offsets, first to last, whose rows are in quarantine since a rollback."""
        self.floor = 0
        """The offset of a checkpoint that is never deleted: the log may come to begin there."""
        self.parts = 0
        """Of the way from there to the newest checkpoint: of each part the first one is kept, so
        that the floor can follow; of 0, none. There are so many, or up to twice as many."""
        self.begin = 0
        """Where the log begins: no checkpoint before it can be used."""
        self.owed: dict[str, int] = {}
        """Of an erasure whose versions are not replaced: first offset, event, newest version, and
        the checkpoint that was gone back to."""
        self._paid: dict[str, int] = {}
        """What was owed last: an erasure has a second event, which may come when that is paid."""
        for left in self.folder.glob(".*"):
            left.unlink()  # of a process that was killed while it wrote
        if self._lists.exists():
            try:
                lists = json.loads(self._lists.read_text("utf-8"))
                self._done = {int(event) for event in lists["done"]}
                self.ranges = [(int(first), int(last)) for first, last in lists["ranges"]]
                self.owed, self._paid = (
                    {str(name): int(value) for name, value in lists.get(which, {}).items()}
                    for which in ("owed", "paid")
                )
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{self._lists} is damaged ({error}); delete it to learn again from the log"
                ) from error

    @property
    def offsets(self) -> list[int]:
        """Offsets of the checkpoints, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("*.safetensors"))

    def save(self, offset: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint, and delete those that are no longer needed."""
        path = self._path(offset)
        checkpoint.save(path, state)
        offsets = self.offsets
        kept: dict[int, int] = {}
        for held in offsets[:-RECENT]:
            kept.setdefault((offsets[-1] - held).bit_length(), held)
        kept_too = {self.floor, self.begin, *self._parted(offsets)}
        for held in set(offsets[:-RECENT]) - {*kept.values(), *kept_too}:
            self._path(held).unlink()
        return path

    def _parted(self, offsets: list[int]) -> list[int]:
        """Return the first checkpoint of each part of the way from the floor to the newest.

        Parts are as long as a power of two, at multiples of it: when they grow, what was the first
        of a part is the first of the longer one, or not needed.
        """
        start = max(self.floor, self.begin)
        if not self.parts or offsets[-1] <= start:
            return []
        length = max((offsets[-1] - start) // self.parts, 1).bit_length() - 1
        first: dict[int, int] = {}
        for held in offsets:
            if held > start:
                first.setdefault(held >> length, held)
        return [*first.values()]

    def begin_at(self, offset: int) -> None:
        """Let go of all that is older than the beginning of the log."""
        self.begin = offset
        offsets = self.offsets
        for held in offsets[:-1]:
            if held < offset <= offsets[-1]:
                self._path(held).unlink()
        known = (self._done, self.ranges)
        self._done = {event for event in self._done if event > offset}
        self.ranges = [(first, last) for first, last in self.ranges if last > offset]
        if known != (self._done, self.ranges):
            self._write()

    def latest(self, before: int | None = None) -> dict[str, Any] | None:
        """Load the newest checkpoint, with an offset of at most `before`; None if there is none.

        Where the log begins after `before`, it is the newest one at its beginning: nothing can be
        learned again from further back.

        A damaged one is passed over for the one before it: learning again from there comes to the
        same weights.

        Raises:
            CheckpointError: there are some, and all are damaged.
        """
        broken = []
        for offset in reversed(self.offsets):
            if before is not None and offset > max(before, self.begin):
                continue
            try:
                state: dict[str, Any] = checkpoint.load(self._path(offset))
                return state
            except CheckpointError as error:
                _log.warning("%s; an earlier one is taken", error)
                broken.append(str(error))
        if broken:
            raise CheckpointError(
                f"{broken[0]}; no earlier one is whole: delete {self.folder} to learn again from "
                "the start of the log, or restore a backup where the log was trimmed"
            )
        return None

    def drop(self, first: int) -> None:
        """Delete the checkpoints that have seen an offset."""
        for offset in self.offsets:
            if offset >= max(first, self.begin + 1):
                self._path(offset).unlink()
        _sync(self.folder)

    def is_done(self, event: int) -> bool:
        """Tell whether going back for the event at this offset is done."""
        return event in self._done

    def done(self, event: int) -> None:
        """Remember that going back for the event at this offset is done."""
        self._done.add(event)
        self._write()

    def discard(self, first: int, last: int) -> None:
        """Never learn again from rows with offsets `first` to `last`."""
        if (first, last) not in self.ranges:
            self.ranges.append((first, last))
            self._write()

    def owe(self, first: int, event: int, again: bool = False) -> None:
        """Remember that versions which have seen an offset are to be replaced.

        Args:
            first: the offset of the first event that was erased.
            event: of the erasure; a learner that is past it again is one to replace them with.
            again: whether it is the second event of an erasure, whose first one is at `first`: the
                checkpoint that was gone back to then is still the one.
        """
        before = self.owed
        if again and not before and first <= self._paid.get("event", 0):
            before = {"from": self._paid["from"]} if "from" in self._paid else {}
        first = min(first, self.owed.get("first", first))
        back = {name: at for name, at in before.items() if name == "from"}
        self.owed = {"first": first, "event": event, **back}
        self._write()

    def went_back(self, offset: int) -> None:
        """Remember the checkpoint from which the learner learns again."""
        if self.owed:
            self.owed = {**self.owed, "from": min(offset, self.owed.get("from", offset))}
            self._write()

    def owed_until(self, version: int) -> None:
        """Remember the newest of the versions that are to be replaced."""
        self.owed = {**self.owed, "until": version}
        self._write()

    def paid(self) -> None:
        """Note that nothing is owed any more."""
        self.owed, self._paid = {}, self.owed
        self._write()

    def discarded(self, offset: int) -> bool:
        """Tell whether an offset is in one of those ranges."""
        return any(first <= offset <= last for first, last in self.ranges)

    def _path(self, offset: int) -> Path:
        return self.folder / f"{offset:012d}.safetensors"

    def _write(self) -> None:
        lists = {"done": sorted(self._done), "ranges": self.ranges}
        text = json.dumps({**lists, "owed": self.owed, "paid": self._paid})
        temporary = self._lists.with_name(f".{self._lists.name}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._lists)
            _sync(self._lists.parent)
        except OSError as error:
            raise CheckpointError(f"cannot write {self._lists}: {error.strerror}") from error


def damaged(folder: Path) -> list[str]:
    """Read a trainer's checkpoints, and return in words which are damaged; it may be running.

    Args:
        folder: the trainer's own.
    """
    found = []
    for path in sorted((folder / "checkpoints").glob("*.safetensors")):
        try:
            checkpoint.load(path)
        except CheckpointError as error:
            if path.exists():  # or else it was no longer needed
                how = "delete it: an earlier one or the log leads to the same weights"
                found.append(f"{error}; {how}")
    return found


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
