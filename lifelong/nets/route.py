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
        self.sizes: list[int] | None = None
        """How many rows each present task has, where values may be looked at."""
        self._index: Tensor | None = None
        self._groups: tuple[Tensor, Tensor] | None = None

    def look(self, task: Tensor, known: list[int]) -> None:
        """Take the (rows,) task ids of a batch; -1 where not known."""
        ids = known
        if not torch.compiler.is_compiling():
            with suppress(RuntimeError):  # vmap lets no value be looked at: all sets are taken
                found, index, counts = torch.unique(task, return_inverse=True, return_counts=True)
                ids = found.tolist()
                if unknown := sorted({*ids} - {-1, *known}):
                    raise UnknownTask(
                        f"task {', '.join(map(str, unknown))} has no adapters here, which have "
                        f"grown for {known}; begin_task first, load its set, or pass -1 for the "
                        "base alone"
                    )
                self.alone = len(ids) == 1 and ids != [-1]
                unknown_first = int(ids[:1] == [-1])
                self.sizes = counts.tolist()[unknown_first:]
                self._index = index - 1 if unknown_first else index
        self.present = [id for id in ids if id != -1]
        self.own = task[:, None] == torch.tensor(self.present, device=task.device)

    @property
    def even(self) -> bool:
        """Whether tasks have about as many rows each: all as many as the most would be few more."""
        sizes = self.sizes or []
        return bool(sizes) and len(sizes) * max(sizes) <= 2 * sum(sizes)

    def groups(self) -> tuple[Tensor, Tensor]:
        """Tell which rows each task has, and where among those each row of the batch is.

        Returns:
            (present, most) row numbers, of which the last of a task with fewer are any; and
            (rows,) places in that when flat, 0 for rows without a task.
        """
        if self._groups is None:
            assert self._index is not None
            assert self.sizes is not None
            most, device = max(self.sizes), self._index.device
            held = self._index.argsort(stable=True)[-sum(self.sizes) :]
            sizes = torch.tensor(self.sizes, device=device)
            starts = sizes.cumsum(0) - sizes
            count = torch.arange(len(held), device=device)
            at = starts[:, None] + count[:most].clamp(max=sizes[:, None] - 1)
            task = self._index[held]
            place = task * most + count - starts[task]
            places = torch.zeros_like(self._index).index_copy(0, held, place)
            self._groups = held[at], places
        return self._groups
