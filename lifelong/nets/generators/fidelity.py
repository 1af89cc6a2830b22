"""How well made rows stand for given ones: mode collapse and drift as three numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HALF = 0.5
"""The overlap up to which a generator counts as collapsed: every other row is of a wrong class."""
FAR = 1.0
"""The distance from which on it does: a constant would do as well."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Made rows against given ones, in the features of a model.

    Attributes:
        overlap: of the classes that the model sees in both: sum_c min(given_c, made_c) of the
            shares; 1 if they are equal, 1 / classes if all that is made is of one.
        diversity: the total variance of the made rows' features, divided by that of the given.
        distance: the squared Frechet distance of the features, divided by the given rows' total
            variance: 0 if they agree in mean and covariance, 1 if only the mean were made, for
            ever. More than 1 is worse than that.

    Example:
        >>> Fidelity(overlap=0.95, diversity=0.8, distance=0.1).collapsed
        False
        >>> Fidelity(overlap=0.2, diversity=0.3, distance=0.7).collapsed
        True
    """

    overlap: float
    diversity: float
    distance: float

    @property
    def collapsed(self) -> bool:
        """Whether half of the rows are of wrong classes, or a constant would do as well."""
        return bool(self._faults())

    def __str__(self) -> str:
        """Show the numbers, and of one that has collapsed which of them is beyond its bound.

        >>> print(Fidelity(overlap=0.98, diversity=1.83, distance=1.19))  # doctest: +ELLIPSIS
        Fidelity(...): distance is 1.19 and must stay below 1: made rows are not like real ones
        """
        faults = self._faults()
        return f"{self!r}: {'; '.join(faults)}" if faults else repr(self)

    def _faults(self) -> list[str]:
        """Say which numbers are beyond their bounds, and what that means; NaN is."""
        faults = []
        if not self.overlap > HALF:
            faults.append(
                f"overlap is {self.overlap:.3g} and must be more than {HALF:g}: made rows are of "
                "other classes than real ones"
            )
        if not self.distance < FAR:
            alike = (
                "made rows are too alike"
                if self.diversity < HALF
                else "made rows are not like real ones"
            )
            faults.append(f"distance is {self.distance:.3g} and must stay below {FAR:g}: {alike}")
        return faults


def fidelity(given: Tensor, made: Tensor, given_labels: Tensor, made_labels: Tensor) -> Fidelity:
    """Compare rows that were made with given ones.

    Args:
        given, made: (rows, features), two or more rows each.
        given_labels, made_labels: (rows,) int64 classes of 0 or more, as one model sees both.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> labels, none = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 0])
        >>> found = fidelity(rows, rows[:1].repeat(4, 1), labels, none)
        >>> found.overlap, found.diversity, round(found.distance, 6)
        (0.5, 0.0, 1.75)
    """
    given, made = given.double(), made.double()
    spread = torch.trace(_covariance(given)).clamp_min(1e-12)
    classes = 1 + max(int(given_labels.max()), int(made_labels.max()))
    shares = [
        torch.bincount(labels, minlength=classes) / len(labels)
        for labels in (given_labels, made_labels)
    ]
    return Fidelity(
        overlap=float(torch.minimum(*shares).sum()),
        diversity=float(torch.trace(_covariance(made)) / spread),
        distance=float(frechet(given, made) / spread),
    )


def frechet(one: Tensor, other: Tensor) -> Tensor:
    """Compute the squared Frechet distance of two sets of rows, as if both were normal.

    |m1 - m2|**2 + tr(C1 + C2 - 2 (C1**(1/2) C2 C1**(1/2))**(1/2))
    Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500.

    Example:
        >>> one = torch.tensor([[-1.0], [1.0]])
        >>> frechet(one, 3 * one + 5).round(decimals=4)  # 5**2 + (deviation 3 - 1)**2 * 2
        tensor(33.)
    """
    first, second = _covariance(one), _covariance(other)
    root = _root(first)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum()
    squared: Tensor = apart + torch.trace(first) + torch.trace(second) - 2 * cross
    return squared.clamp_min(0)


def _covariance(rows: Tensor) -> Tensor:
    apart = rows - rows.mean(0)
    return apart.T @ apart / max(len(rows) - 1, 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
