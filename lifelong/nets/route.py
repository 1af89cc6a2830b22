"""Which of several sets of adapters each row of a batch has."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from lifelong.core.errors import UnknownTask


class Route:
    """Which set each row of the batch under way has; all adapters of a model look at the same.

    Attributes:
        present: the tasks whose sets are needed; the others are left alone, gradients too.
        own: (rows, present) 1 where a row has that task; None where there are no tasks.
        alone: whether all rows have the one task that is present.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the batch: until the next, the base alone answers."""
        self.present: list[int] = []
        self.own: Tensor | None = None
        self.alone = False

    def look(self, task: Tensor, known: list[int]) -> None:
        """Take the (rows,) task ids of a batch; -1 where not known."""
        ids = known
        if not torch.compiler.is_compiling():
            with suppress(RuntimeError):  # vmap lets no value be looked at: all sets are taken
                ids = torch.unique(task).tolist()
                if unknown := sorted({*ids} - {-1, *known}):
                    raise UnknownTask(
                        f"task {', '.join(map(str, unknown))} has no adapters here, which have "
                        f"grown for {known}; begin_task first, load its set, or pass -1 for the "
                        "base alone"
                    )
                self.alone = len(ids) == 1 and ids != [-1]
        self.present = [id for id in ids if id != -1]
        self.own = task[:, None] == torch.tensor(self.present, device=task.device)
