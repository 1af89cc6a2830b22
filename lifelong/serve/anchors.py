"""Anchors: labelled rows of each task or period that never train, to notice forgetting with."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.serve.plan import check_anchors
from lifelong.serve.records import key_of
from lifelong.serve.rows import chance_of


class Anchors:
    """Hold out a share of the labelled rows, chosen by a hash of their ids.

    Whether a row is one depends on its id alone, so no restart and no other row changes it. Of
    each group the `limit` rows with the smallest hashes are kept: a uniform sample of the group
    whatever the order in which rows come. Those beyond the limit still never train. Where there are
    more than `most` groups, every other one of the older half is dropped, so that memory is bounded
    and the newer groups are the denser.

    Args:
        share: of the rows, between 0 and 1.
        limit: rows kept of each group.
        most: groups kept, 4 or more.

    Raises:
        ValueError: the share or a limit is out of range.

    Example:
        >>> anchors = Anchors(share=0.5, limit=10)
        >>> sum(anchors.chosen(f"event {i}") for i in range(1000)) in range(450, 550)
        True
    """

    def __init__(self, share: float = 0.1, limit: int = 500, most: int = 100) -> None:
        check_anchors(share, limit, most)
        self.share = share
        self.limit = limit
        self.most = most
        self._groups: dict[int, list[tuple[float, str, Tensor, int, int]]] = {}

    @property
    def groups(self) -> list[int]:
        """Tasks or periods that have anchors, in order."""
        return sorted(self._groups)

    def chosen(self, id: str) -> bool:
        """Tell whether the row with this id is an anchor."""
        return chance_of(id) < self.share

    def add(self, group: int, id: str, x: NDArray[np.generic], y: int, task: int) -> None:
        """Keep a row that was chosen, if it is among those with the smallest hashes."""
        if group not in self._groups and len(self._groups) >= self.most:
            older = self.groups
            for dropped in older[1 : len(older) // 2 : 2]:
                del self._groups[dropped]
        held = self._groups.setdefault(group, [])
        held.append((chance_of(id), id, torch.from_numpy(np.ascontiguousarray(x)), y, task))
        if len(held) > self.limit:
            held.remove(max(held, key=lambda row: row[:2]))

    def forget(self, keys: Collection[int]) -> None:
        """Drop the rows with these keys."""
        for group, held in list(self._groups.items()):
            kept = [row for row in held if key_of(row[1]) not in keys]
            self._groups[group] = kept
            if not kept:
                del self._groups[group]

    def count(self, group: int) -> int:
        """Count the rows of a group."""
        return len(self._groups[group])

    def rows(self, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, labels and tasks of a group, (rows, ...) each."""
        held = self._groups[group]
        x = torch.stack([row[2] for row in held])
        return x, torch.tensor([row[3] for row in held]), torch.tensor([row[4] for row in held])

    def state_dict(self) -> dict[str, Any]:
        """Return all rows, by group."""
        groups = {}
        for group, held in self._groups.items():
            x, y, task = self.rows(group)
            ids = [row[1] for row in held]
            groups[str(group)] = {"id": ids, "x": x, "y": y, "task": task}
        return groups

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold the rows of a state, and no others."""
        self._groups = {
            int(group): [
                (chance_of(id), id, x, y, task)
                for id, x, y, task in zip(
                    rows["id"],
                    rows["x"].unbind(),
                    rows["y"].tolist(),
                    rows["task"].tolist(),
                    strict=True,
                )
            ]
            for group, rows in state.items()
        }
