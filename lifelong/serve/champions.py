"""The versions that a service served, as far as their files are still there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from lifelong.core.errors import RegistryError, StateMismatch
from lifelong.core.learner import Learner
from lifelong.serve import versions
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.versions import WEIGHTS
from lifelong.serve.weights import model_of


class Champions:
    """Load versions from a service's folder, which is read only, and keep the latest one.

    Args:
        folder: of the service.
        make: returns a new learner with the service's model.
    """

    def __init__(self, folder: Path, make: Callable[[], Learner]) -> None:
        self.folder = folder
        self.make = make
        self._held: tuple[int, Snapshot | None] = (0, None)

    def version(self, number: int) -> Snapshot | None:
        """Return a version; None if its files were pruned, retired or damaged."""
        if number != self._held[0]:
            found = None
            try:
                version = versions.from_folder(self.folder / "versions" / str(number))
                found = Snapshot(number, model_of(self.make, versions.load(version, WEIGHTS)))
            except (RegistryError, StateMismatch):
                found = None
            self._held = (number, found)
        return self._held[1]

    def accuracy(self, number: int, x: Tensor, y: Tensor, task: Tensor) -> float | None:
        """Return the share of rows that a version answers rightly; None if it is not there."""
        found = self.version(number)
        if found is None:
            return None
        output = found.predict(x.numpy().astype(np.float32), task.numpy())
        return float((output.reshape(len(y), -1).argmax(1) == y.numpy()).mean())
