"""What some coordinates of orthonormal directions span: cut, they are orthonormal no more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NOTHING = 1e-6
"""What is left of a direction of length 1 where it counts as rounding."""


def spanned(parts: Sequence[Tensor]) -> list[Tensor]:
    """Make an orthonormal basis of what orthonormal rows span in some of their coordinates.

    Q = values**-1/2 vectors' R, of R R' = vectors values vectors', without the values that are
    rounding; all of it in float64, where squaring R does no harm.

    Args:
        parts: (rows, size) each: the coordinates, in pieces that lie side by side.

    Returns:
        (as many rows as they have dimensions there, size) each: the same pieces of the basis.

    Example:
        >>> left = torch.tensor([[0.6, 0.0], [0.0, 0.0]])
        >>> right = torch.tensor([[0.0], [1.0]])
        >>> [part.shape for part in spanned([left, right])], spanned([left])[0].abs().tolist()
        ([torch.Size([2, 2]), torch.Size([2, 1])], [[1.0, 0.0]])
    """
    square = torch.stack([part.double() @ part.double().T for part in parts]).sum(0)
    values, vectors = torch.linalg.eigh(square)
    some = values > _NOTHING**2
    mixed = (vectors[:, some] / values[some].sqrt()).T
    return [(mixed @ part.double()).to(part.dtype) for part in parts]
