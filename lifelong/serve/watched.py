"""The version that is served, and the watch over it, which outlives a trainer's process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import RegistryError, StateMismatch
from lifelong.serve.config import Release
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Came
from lifelong.serve.trial import Correct, right_of
from lifelong.serve.versions import write_json
from lifelong.serve.watch import Watch, lately

_log = logging.getLogger("lifelong.serve")


class Watched:
    """Count what the champion gets right, and hold it to what it is held to if it was promoted.

    All of it is in a file that is written before each checkpoint of the trainer. A process that
    starts again learns again what came after its checkpoint; a row that was counted by then, as the
    file knows, is not counted twice, and one that was not is counted now. So the watch comes to the
    same as if nothing had happened, and rows that are learned again after going back count once.

    Args:
        path: of the file.
        settings: what a champion is held to.
        load: returns a version.

    Raises:
        RegistryError: the file cannot be written.
    """

    def __init__(self, path: Path, settings: Release, load: Callable[[int], Snapshot]) -> None:
        self.path = path
        self.settings = settings
        self.champion: Snapshot | None = None
        self.before: Snapshot | None = None
        """The champion that this one has replaced, if it was promoted here."""
        self.watch: Watch | None = None
        """Over the champion, if it was promoted here."""
        self._load = load
        self._lately = lately()
        """Whether the champion got the last rows right."""
        self._seen = 0
        """The last row that was counted became whole at this offset."""
        self._promoting: int | None = None

    def promotes(self, number: int) -> None:
        """Note which version the api is about to be asked to promote."""
        self._promoting = number
        self.save()

    def becomes(self, number: int, promoted: bool) -> None:
        """Say that this version is the champion now.

        Args:
            number: of the version.
            promoted: whether it was promoted here. The first time in a process the file tells.
        """
        if self.champion is None and (told := self._read()) is not None:
            self._lately.extend(bit == "1" for bit in told["lately"])
            self._seen = told["seen"]
            if told["champion"] == number:
                self.before, self.watch = self._there(told["before"]), told["watch"]
                self.champion = self._load(number)
                return
            promoted = told["promoting"] == number
            self.champion = self._there(told["champion"]) if promoted else None
        loaded = self._load(number)
        had = list(self._lately)
        asked = self.settings.guard
        self.watch = Watch(self.settings.tolerance, asked, had) if promoted else None
        self.before = self.champion if promoted else None
        self.champion, self._promoting = loaded, None
        self._lately = lately()
        self.save()

    def ends(self) -> None:
        """Watch this champion no more."""
        self.watch = None
        self.save()

    def add(self, champion: Snapshot, batch: Batch, came: list[Came]) -> Correct:
        """Count the rows of a batch that are new, and return which of all the champion got right.

        Args:
            champion: that is served.
            batch: that was learned from.
            came: where its rows came from.
        """
        x = batch.x
        assert isinstance(x, Tensor)
        right = right_of(champion, x, batch.y, batch.task)
        new = np.array([offset > self._seen for offset, _, _ in came])
        if new.any():
            self._seen = max(offset for offset, _, _ in came)
            self._lately.extend(right[new].tolist())
            if self.watch is not None:
                old = self.before
                before = None if old is None else right_of(old, x, batch.y, batch.task)[new]
                self.watch.add(right[new], before)
        return right

    def save(self) -> None:
        """Write the file, if there is a champion."""
        if self.champion is None:
            return
        told = {
            "champion": self.champion.version,
            "before": None if self.before is None else self.before.version,
            "promoting": self._promoting,
            "seen": self._seen,
            "lately": "".join("1" if right else "0" for right in self._lately),
            "watch": None if self.watch is None else self.watch.state_dict(),
        }
        write_json(self.path, told)

    def _read(self) -> dict[str, Any] | None:
        """Return what the file says, with the watch; None if there is none, or it is damaged."""
        try:
            told: dict[str, Any] = json.loads(self.path.read_bytes())
            if type(told["seen"]) is not int or set(told["lately"]) - {"0", "1"}:
                raise ValueError("its rows are none")
            if told["watch"] is not None:
                watch = Watch(self.settings.tolerance, self.settings.guard, [])
                watch.load_state_dict(told["watch"])
                told["watch"] = watch
            _ = told["champion"], told["before"], told["promoting"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, StateMismatch) as error:
            how = "the champion is watched no more, until the next promotion"
            _log.warning("%s is damaged (%s): %s", self.path, error, how)
            return None
        return told

    def _there(self, number: int | None) -> Snapshot | None:
        """Return a version; None if it is not there any more."""
        try:
            return None if number is None else self._load(number)
        except RegistryError:
            return None
