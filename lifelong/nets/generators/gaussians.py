"""Normal distributions of classes, from exact running moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lifelong.core.errors import StateMismatch

COVARIANCES = ("class", "shared", "diagonal")


class ClassGaussians:
    """A normal distribution for each class of features, that takes rows in and gives others.

    N(mean_c, C_c + shrinkage * tr(C_c) / features * 1), where C_c is the class's covariance, the
    mean one of all classes ("shared"), or its diagonal

    Counts, sums and sums of products are kept in float64, so that it does not matter in which
    order or how often rows come; a class may come again. It holds, for C classes of D features,
    C D**2 numbers with "class", D**2 + C D with "shared", and 2 C D with "diagonal".

    Args:
        covariance: "class", "shared" or "diagonal".
        shrinkage: what is added to the diagonal, in parts of the mean variance.

    Raises:
        ValueError: there is no such covariance, or a negative shrinkage.

    Example:
        >>> gaussians = ClassGaussians("diagonal", shrinkage=0.0)
        >>> gaussians.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([5, 5]))
        >>> gaussians.classes, gaussians.means().tolist(), gaussians.covariances().tolist()
        ([5], [[2.0, 0.0]], [[[1.0, 0.0], [0.0, 0.0]]])
    """

    device: torch.device = torch.device("cpu")

    def __init__(self, covariance: str = "class", *, shrinkage: float = 0.05) -> None:
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance is {covariance!r}; choose one of {COVARIANCES}")
        if not 0 <= shrinkage < float("inf"):
            raise ValueError(f"shrinkage is {shrinkage}; it must be 0 or more")
        self.covariance = covariance
        self.shrinkage = shrinkage
        self.classes: list[int] = []
        """The classes met, in their order; the other attributes have a row for each."""
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.sums = torch.zeros(0, 0, dtype=torch.float64)
        self.products = torch.zeros(0, dtype=torch.float64)
        self._factors: tuple[Tensor, Tensor] | None = None

    def add(self, features: Tensor, classes: Tensor) -> None:
        """Take in rows, (rows, features), with the class of each, (rows,) int64."""
        features = features.double()
        for label in torch.unique(classes).tolist():
            rows = features[classes == label]
            place = self._place(label, rows)
            self.counts[place] += len(rows)
            self.sums[place] += rows.sum(0)
            if self.covariance == "diagonal":
                self.products[place] += (rows**2).sum(0)
            else:
                self.products[0 if self.covariance == "shared" else place] += rows.T @ rows
        self._factors = None

    def means(self) -> Tensor:
        """Compute the means, (classes, features)."""
        return self.sums / self.counts[:, None]

    def covariances(self) -> Tensor:
        """Compute the covariances without shrinkage, (classes or 1, features, features)."""
        means = self.means()
        if self.covariance == "diagonal":
            return torch.diag_embed(self.products / self.counts[:, None] - means**2)
        if self.covariance == "shared":
            between = (means * self.counts[:, None]).T @ means
            return ((self.products[0] - between) / self.counts.sum())[None]
        outer = means[:, :, None] * means[:, None, :]
        return self.products / self.counts[:, None, None] - outer

    def sample(self, rows: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw at least `rows` rows, equally many of each class; give them and their classes."""
        if self._factors is None:
            self._factors = self.means().float(), self._roots().float()
        means, roots = self._factors
        each = -(-rows // len(self.classes))
        noise = torch.randn(len(means), each, means.shape[1], generator=chance).to(means.device)
        drawn = means[:, None] + noise @ roots.mT  # (classes, each, features)
        labels = torch.tensor(self.classes, device=means.device)
        return drawn.flatten(0, 1), labels.repeat_interleave(each)

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over moments.

        Raises:
            StateMismatch: they are misshaped, or of another kind of covariance.
        """
        classes, width = len(state["classes"]), state["sums"].shape[-1]
        products = {
            "class": (classes, width, width),
            "shared": (min(classes, 1), width, width),
            "diagonal": (classes, width),
        }[self.covariance]
        shapes = {"counts": (classes,), "sums": (classes, width), "products": products}
        for name, shape in shapes.items():
            if classes and tuple(state[name].shape) != shape:
                raise StateMismatch(
                    f"{name} is {tuple(state[name].shape)} in the state, expected {shape} for "
                    f"{classes} classes with covariance={self.covariance!r}"
                )
            setattr(self, name, state[name].detach().to(self.device, copy=True))
        self.classes = list(state["classes"])
        self._factors = None

    def _place(self, label: int, rows: Tensor) -> int:
        if label in self.classes:
            return self.classes.index(label)
        width = rows.shape[1]
        shape = (1, width) if self.covariance == "diagonal" else (1, width, width)
        room = rows.new_zeros(shape)
        if not self.classes:
            self.counts, self.sums, self.products = (
                rows.new_zeros(1),
                rows.new_zeros(1, width),
                room,
            )
        else:
            self.counts = torch.cat((self.counts, rows.new_zeros(1)))
            self.sums = torch.cat((self.sums, rows.new_zeros(1, width)))
            if self.covariance != "shared":
                self.products = torch.cat((self.products, room))
        self.classes = [*self.classes, label]
        return len(self.classes) - 1

    def _roots(self) -> Tensor:
        covariances = self.covariances()
        variance = covariances.diagonal(dim1=1, dim2=2)
        shrunk = covariances + torch.diag_embed(
            self.shrinkage * variance.mean(1, keepdim=True).expand_as(variance)
        )
        values, vectors = torch.linalg.eigh(shrunk)  # a root even of a singular one
        roots: Tensor = vectors * values.clamp_min(0).sqrt()[:, None]
        return roots


_STATE = ("classes", "counts", "sums", "products")
