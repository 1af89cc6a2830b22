"""Random choices that treat every class alike."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified(y: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Set a share of each class aside, rounded down, so that no class loses all of its rows.

    Args:
        y: (rows,) int64 class ids of 0 or more.
        share: 0 or more, and less than 1.
        generator: of the choice.

    Returns:
        The positions kept and the positions set aside, each in ascending order.

    Example:
        >>> kept, aside = stratified(torch.tensor([0] * 8 + [1] * 4), 0.25, torch.Generator())
        >>> len(kept), torch.bincount(torch.cat((kept, aside)), minlength=12).tolist() == [1] * 12
        (9, True)
    """
    if not 0 <= share < 1:
        raise ValueError(f"a share of {share}; it must be 0 or more, and less than 1")
    # A hair more than the share: 0.29 * 100 is 28.999999999999996 in floating point.
    quota = torch.floor(torch.bincount(y).double() * share + 1e-9).long()
    aside = _ranks(y, generator) < quota[y]
    return (~aside).nonzero().flatten(), aside.nonzero().flatten()


def at_most(y: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Choose at most `limit` rows of each class: their positions, in ascending order.

    Example:
        >>> y = torch.tensor([0, 0, 0, 1])
        >>> y[at_most(y, 2, torch.Generator())].tolist()
        [0, 0, 1]
    """
    if limit < 1:
        raise ValueError(f"a limit of {limit} rows a class; it must be 1 or more")
    return (_ranks(y, generator) < limit).nonzero().flatten()


def _ranks(y: Tensor, generator: torch.Generator) -> Tensor:
    """Number the rows of each class from 0 in random order: (rows,)."""
    order = torch.randperm(y.shape[0], generator=generator)
    order = order[torch.argsort(y[order], stable=True)]
    counts = torch.bincount(y)
    first = counts.cumsum(0) - counts
    ranks = torch.empty_like(y)
    ranks[order] = torch.arange(y.shape[0]) - first[y[order]]
    return ranks
