"""Looking at rows before they enter a memory: copies, likely wrong labels, and quotas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong.memory.memory import Memory

REASONS = ("kept", "copy", "near copy", "neighbours", "high loss", "class quota", "task quota")
"""What can become of a row, in the order in which it is looked at."""

LOW, MIX = (1 << 35) - 1, -0x61C8864680B583EB
"""What is left of a word shifted by 29 bits, and an odd number to multiply by (2**64 / golden)."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Tell which rows should not enter a memory, and why.

    Each row is looked at in this order, and the first reason counts:

    - copies: its inputs equal, byte for byte, those of a row held or earlier in the batch;
    - near: the cosine of its features to those of such a row is above this;
    - neighbours: of that many rows held whose features are nearest to its own, fewer than half
      have its label, though as many rows of its label are held;
    - small_loss: its loss is not among this share of the smallest of the batch (Han et al. 2018,
      arXiv:1804.06872, who thus choose what to train on);
    - per_class, per_task: so many rows of its class, or task, are held already.

    Args:
        copies: whether to look for equal rows.
        near: a cosine, or None.
        neighbours: how many to ask, or None.
        small_loss: a share, or None.
        per_class: rows a class, or None.
        per_task: rows a task, or None.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> rows = {"x": torch.tensor([[1.0], [2.0], [1.0]]), "y": torch.tensor([0, 0, 1])}
        >>> [REASONS[code] for code in Cleaning().judge(rows, Memory(9)).tolist()]
        ['kept', 'kept', 'copy']
    """

    copies: bool = True
    near: float | None = None
    neighbours: int | None = None
    small_loss: float | None = None
    per_class: int | None = None
    per_task: int | None = None

    def __post_init__(self) -> None:
        for name in ("near", "small_loss"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; it must be more than 0, up to 1, or None")
        for name in ("neighbours", "per_class", "per_task"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more, or None")

    @property
    def looks_at_features(self) -> bool:
        """Whether the features of rows are needed."""
        return self.near is not None or self.neighbours is not None

    def columns(
        self, columns: Mapping[str, Tensor], features: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Make the columns that a memory must keep beside the rows: `hash` and `feature`.

        Args:
            columns: of the rows offered.
            features: (rows, features), where they are looked at; kept with norm 1, in 16 bits.
        """
        more = {"hash": row_hash(columns)} if self.copies else {}
        if self.looks_at_features:
            if features is None:
                raise ValueError("near and neighbours compare features; give those of the rows")
            unit = torch.nn.functional.normalize(features.float().flatten(1))
            more["feature"] = unit.half().to(columns["y"].device)
        return more

    def judge(
        self,
        columns: Mapping[str, Tensor],
        memory: Memory,
        *,
        losses: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Judge rows that are offered to a memory.

        Args:
            columns: of the rows, on the memory's device; "y" is their class, "task" their task.
            memory: which holds the columns of `columns()` as well.
            losses: (rows,) of the rows, for `small_loss`.
            features: (rows, features), for `near` and `neighbours`.

        Returns:
            (rows,) the place in `REASONS` of what becomes of each row; 0 for rows to be kept.
        """
        own = self.columns(columns, features)
        reason = torch.zeros_like(columns["y"], dtype=torch.int64)
        if self.copies:
            _mark(reason, 1, _copies(own["hash"], _held(memory, "hash")))
        if self.near is not None:
            _mark(reason, 2, _near(own["feature"], _held(memory, "feature"), self.near))
        if self.neighbours is not None and len(memory):
            among = _held(memory, "feature"), _held(memory, "y")
            _mark(reason, 3, _outvoted(own["feature"], columns["y"], *among, self.neighbours))
        if self.small_loss is not None:
            if losses is None:
                raise ValueError("small_loss compares losses; give those of the rows")
            _mark(reason, 4, _high(losses.to(reason.device), self.small_loss))
        for code, name, most in ((5, "y", self.per_class), (6, "task", self.per_task)):
            if most is not None:
                _mark(reason, code, _beyond(columns[name], reason == 0, _held(memory, name), most))
        return reason


def row_hash(columns: Mapping[str, Tensor]) -> Tensor:
    """Hash the inputs of each row, `x` or `x/...`, to 64 bits: (rows,) int64.

    Two rows that differ have the same hash with a probability of about 2**-64.

    Example:
        >>> one, other, again = row_hash({"x": torch.tensor([[1, 2], [2, 1], [1, 2]])}).tolist()
        >>> one == again, one == other
        (True, False)
    """
    inputs = [c for name, c in sorted(columns.items()) if name == "x" or name.startswith("x/")]
    total = torch.zeros(len(inputs[0]), dtype=torch.int64, device=inputs[0].device)
    for number, column in enumerate(inputs):
        flat = column.detach().reshape(len(column), -1).contiguous().view(torch.uint8)
        words = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8)).view(torch.int64)
        chance = torch.Generator().manual_seed(number)
        salt = torch.randint(-(2**63), 2**63 - 1, (words.shape[1],), generator=chance)
        mixed = (words + salt.to(words.device)) * MIX  # wraps around, which is meant
        mixed = (mixed ^ ((mixed >> 29) & LOW)) * MIX
        total += ((mixed ^ ((mixed >> 29) & LOW)) * (salt.to(words.device) | 1)).sum(1)
    return total


def _held(memory: Memory, name: str) -> Tensor | None:
    return memory.column(name) if len(memory) else None


def _mark(reason: Tensor, code: int, found: Tensor) -> None:
    reason[(reason == 0) & found] = code


def _copies(own: Tensor, held: Tensor | None) -> Tensor:
    """Mark rows that are held already, or came earlier in the batch."""
    _, which = torch.unique(own, return_inverse=True)
    first = torch.full((len(own),), len(own), device=own.device)
    order = torch.arange(len(own), device=own.device)
    first = first.scatter_reduce(0, which, order, "amin")
    again = order > first[which]
    return again if held is None else again | torch.isin(own, held)


def _near(own: Tensor, held: Tensor | None, above: float) -> Tensor:
    """Mark rows near to one held, or to an earlier one of the batch."""
    own = own.float()
    again: Tensor = ((own @ own.T).tril(-1) > above).any(1)
    return again if held is None else again | ((own @ held.float().T) > above).any(1)


def _outvoted(
    own: Tensor, y: Tensor, held: Tensor | None, labels: Tensor | None, neighbours: int
) -> Tensor:
    """Mark rows whose nearest rows held mostly have other labels."""
    if held is None or labels is None:
        return torch.zeros_like(y, dtype=torch.bool)
    nearest = (own.float() @ held.float().T).topk(min(neighbours, len(held)), 1).indices
    agree = (labels[nearest] == y[:, None]).float().mean(1)
    known: Tensor = (y[:, None] == labels).sum(1) >= neighbours
    return known & (agree < 0.5)


def _high(losses: Tensor, share: float) -> Tensor:
    """Mark rows whose loss is not among the smallest."""
    marked = torch.ones_like(losses, dtype=torch.bool)
    marked[losses.argsort(stable=True)[: -int(-share * len(losses) // 1)]] = False
    return marked


def _beyond(own: Tensor, still: Tensor, held: Tensor | None, most: int) -> Tensor:
    """Mark rows of groups of which enough are held, the batch's earlier rows among them."""
    every = own if held is None else torch.cat((own, held))
    groups, which = torch.unique(every, return_inverse=True)
    full = torch.bincount(which[len(own) :], minlength=len(groups))
    mine = torch.nn.functional.one_hot(which[: len(own)], len(groups)) * still[:, None]
    before = mine.cumsum(0).gather(1, which[: len(own), None]).flatten() - still.long()
    return full[which[: len(own)]] + before >= most
