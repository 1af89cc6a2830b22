"""Bounds of what is promoted without a person: how often, and how close to forgetting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from lifelong.serve.comparison import Judgement
from lifelong.serve.versions import write_json

HOUR = 3600.0


class Bounds:
    """Say why a candidate that passed the gate should not be promoted by itself.

    How often it was done is kept in a file, and written down before it is done: a process that
    dies in between, or again and again, promotes no more often than it may.

    Args:
        path: of the file.
        hourly: automatic promotions in an hour, at most.
        distance: by how much the drop on each task's anchors has to stay within what the gate
            allows.
        now: seconds since 1970.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bounds = Bounds(Path(folder) / "promotions.json", hourly=1)
        ...     bounds.full(2)
        ...     bounds.promotes(2)
        ...     bounds.full(2), bounds.full(3)
        False
        (False, True)
    """

    def __init__(
        self,
        path: Path,
        hourly: int = 120,
        distance: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.hourly = hourly
        self.distance = distance
        self.now = now

    def full(self, version: int) -> bool:
        """Whether others than this version were promoted as often in the last hour as may be."""
        return len(self._recent().keys() - {str(version)}) >= self.hourly

    def promotes(self, version: int) -> None:
        """Count a promotion that is about to be asked for; asked for again it counts once."""
        recent = self._recent()
        write_json(self.path, {**recent, str(version): recent.get(str(version), self.now())})

    def broken(self, version: int, judgement: Judgement) -> list[str]:
        """Return a sentence for each bound that promoting on this judgement would break."""
        found = []
        if self.full(version):
            found.append(f"there were {self.hourly} automatic promotions in the last hour already")
        most = judgement.report["gate"]["forgetting"] - self.distance
        found += [
            f"{finding['name']}: the drop is {finding['drop']:.4f}, above the {most:.4f} that is "
            "promoted without being asked"
            for finding in judgement.report["findings"]
            if finding["name"].startswith("task ") and finding.get("drop", 0.0) > most
        ]
        return found

    def _recent(self) -> dict[str, float]:
        try:
            times = json.loads(self.path.read_bytes())
            return {str(id): float(at) for id, at in times.items() if self.now() - at < HOUR}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError):
            unknown = {f"unknown {n}": self.now() for n in range(self.hourly)}
            write_json(self.path, unknown)  # unknown is not zero: wait for an hour
            return unknown
