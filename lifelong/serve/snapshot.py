"""The model that answers: one version of it, frozen, and the place where versions are swapped."""

from __future__ import annotations

import copy
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lifelong.core.forward import forward, wants_task

Arm: TypeAlias = Literal["champion", "challenger"]


class Snapshot:
    """One version of the model, which never changes: a copy in eval mode that takes no gradients.

    Args:
        version: its number in the registry.
        model: is copied, on the device where it is; later changes to it do not reach the copy.
        probabilities: whether `predict` gives the softmax of the model's output, or the output.

    Example:
        >>> snapshot = Snapshot(3, nn.Linear(2, 5))
        >>> snapshot.version, snapshot.predict(np.zeros((4, 2), np.float32)).shape
        (3, (4, 5))
    """

    __slots__ = ("_device", "_model", "_probabilities", "_wants_task", "version")

    version: int
    _model: nn.Module
    _device: torch.device
    _probabilities: bool
    _wants_task: bool

    def __init__(self, version: int, model: nn.Module, *, probabilities: bool = True) -> None:
        copied = copy.deepcopy(model).requires_grad_(False).eval()
        first = next(copied.parameters(), None)
        fill = super().__setattr__
        fill("version", version)
        fill("_model", copied)
        fill("_device", torch.device("cpu") if first is None else first.device)
        fill("_probabilities", probabilities)
        fill("_wants_task", wants_task(copied))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} of a snapshot cannot be set; make another snapshot")

    def predict(
        self, rows: npt.NDArray[np.float32], tasks: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Compute the outputs, (rows, outputs) or (rows,), of rows, (rows, ...).

        Args:
            rows: float32.
            tasks: (rows,) int64, -1 for not known, for a model that wants the task; None if all
                are not known.

        Raises:
            ValueError: the model does not give one output a row, or no probabilities can be made.
        """
        task = None
        if self._wants_task:
            known = np.full(len(rows), -1, np.int64) if tasks is None else tasks
            task = torch.from_numpy(known).to(self._device)
        # torch takes no arrays that cannot be written to without a warning.
        x = torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(self._device)
        with torch.inference_mode():
            output = forward(self._model, x, task)
            if output.shape[:1] != rows.shape[:1] or output.ndim < 1 + self._probabilities:
                raise ValueError(
                    f"version {self.version} gives {tuple(output.shape)} for {len(rows)} rows; it "
                    "must give (rows, classes), or (rows, ...) with probabilities=False"
                )
            if self._probabilities:
                output = torch.softmax(output.float(), -1)
            return output.float().cpu().numpy()


class Holder:
    """What is served now. A batch reads `current` once; setting it swaps the version for the next.

    Args:
        current: answers everybody, or all but the challenger's share.
        challenger: answers the share of requests that `Parts.choose` gives it; None for no trial.

    Example:
        >>> holder = Holder(Snapshot(1, nn.Linear(2, 5)))
        >>> holder.current = Snapshot(2, nn.Linear(2, 5))
        >>> holder.current.version, holder.of("challenger").version
        (2, 2)
    """

    __slots__ = ("challenger", "current")

    def __init__(self, current: Snapshot, challenger: Snapshot | None = None) -> None:
        self.current = current
        self.challenger = challenger

    def of(self, arm: Arm) -> Snapshot:
        """Return the snapshot of an arm; the champion stands in where there is no challenger."""
        challenger = self.challenger
        return challenger if arm == "challenger" and challenger is not None else self.current
