"""OGD: orthogonal gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.core.group_gradients import group_gradients
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.memory import Memory
from lifelong.strategies.class_ids import check_class_ids
from lifelong.strategies.span import spanned

_DEPENDS = 1e-4
"""The share of a gradient outside the span of others below which it adds no direction."""


class OGD(Strategy):
    """Take out of each step what would change the old answers to old rows.

    g~ = g - sum over v in S of <g, v> v, with S an orthonormal basis of the gradients of
    f_y(x), the output for the label, for rows (x, y) of each past task
    Farajtabar et al. 2020, arXiv:1910.07104 (OGD-GTL).

    The authors keep 200 directions of every task; here the tasks share what is kept, so that
    memory is bounded: `directions` times the number of weights. When a task ends, each task before
    gives up directions at random. Gradients are orthogonalised twice against those kept, and with
    each other by QR; those that add nothing are left out. Where some parameters have no gradient,
    as they are frozen or another task's, the others' is made orthogonal to the directions' parts
    for them, by least squares. The gradient is orthogonal; momentum, Adam and weight decay may
    step elsewhere.

    A gradient of one row gives the row away, so directions are personal data as rows are. The
    directions of a task are mixtures of its rows' gradients, made orthogonal to those of the tasks
    before; so `forget` drops all those of a task that a row is of, and of the tasks after it.

    Args:
        directions: how many to keep of all tasks together.

    Raises:
        ValueError: fewer than one direction.
        InvalidBatch: labels are no classes, or the outputs not one for each.

    Example:
        >>> OGD(directions=100).basis.shape
        torch.Size([0, 0])
    """

    state: ClassVar[tuple[str, ...]] = ("basis", "owner", "spans", "tasks", "keys", "origin")

    def __init__(self, directions: int = 200) -> None:
        if directions < 1:
            raise ValueError(f"directions is {directions}; it must be 1 or more")
        self.directions = directions
        self.basis = torch.zeros(0, 0)
        """(directions kept, weights), orthonormal rows."""
        self.owner = torch.zeros(0, dtype=torch.int64)
        """(directions kept,) the number of the task that each is of."""
        self.spans: dict[str, list[int]] = {}
        """Where in a row each parameter's weights start and stop."""
        self.tasks = 0
        self.keys = torch.zeros(0, dtype=torch.int64)
        """The ids of the rows that directions are, or once were, of."""
        self.origin = torch.zeros(0, dtype=torch.int64)
        """The number of the task that each of these rows is of."""
        self._cut: tuple[Tensor, list[str], list[Tensor]] | None = None

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> float:
        """Add nothing; look at what the end of the task will need, before anything is learned."""
        del learner
        _check_classes(output, batch)
        return 0.0

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Make the gradient orthogonal to all directions kept."""
        learned = {
            name: p.grad
            for name, p in learner.parameters.items()
            if p.grad is not None and name in self.spans
        }
        if not len(self.basis) or not learned:
            return
        parts = self._parts(list(learned))
        along = torch.stack(
            [part @ g.flatten().to(part) for part, g in zip(parts, learned.values(), strict=True)]
        ).sum(0)
        for part, gradient in zip(parts, learned.values(), strict=True):
            gradient.sub_((along @ part).view_as(gradient))

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Add directions of rows of this task, and give up some of the tasks before."""
        share = max(1, self.directions // (self.tasks + 1))
        sample = Memory(share)
        for batch in data:
            columns = {name: column for name, column in batch.columns() if name != "weight"}
            sample.add(columns, None, self.generator)
        rows = batch_of_columns(sample.all()).to(learner.device)
        weight = torch.ones(len(rows), 1, device=learner.device)
        found = group_gradients(learner.model, rows, weight, _label_output, learner.parameters)
        self._cut = None
        self._widen(learner)
        self._thin(share)
        # What has been frozen since it got its place has no gradient any more.
        frozen = {n: self.basis.new_zeros(len(rows), b - a) for n, (a, b) in self.spans.items()}
        parts = {**frozen, **found}
        new = torch.cat([parts[name].flatten(1).to(self.basis) for name in self.spans], 1)
        new = orthonormal(new, self.basis)
        self.basis = torch.cat((self.basis, new))
        self.owner = torch.cat((self.owner, self.owner.new_full((len(new),), self.tasks)))
        known = rows.key[rows.key != -1]
        self.keys = torch.cat((self.keys.to(known), known))
        self.origin = torch.cat((self.origin.to(known), torch.full_like(known, self.tasks)))
        self.tasks += 1

    def forget(self, keys: Tensor) -> int:
        """Drop the directions of the first task that has one of these rows, and of all after it.

        Returns:
            How many directions were of these rows.
        """
        erased = self.origin[torch.isin(self.keys, keys.to(self.keys.device))]
        if len(erased):
            self._cut = None  # what it is made of gives rows away, too
            first = erased.min()
            kept, left = self.owner < first, self.origin < first
            self.basis, self.owner = self.basis[kept], self.owner[kept]
            self.keys, self.origin = self.keys[left], self.origin[left]
        return len(erased)

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: the directions are not as many, or as long, as it says.
        """
        if state.keys() >= {"basis", "owner", "spans", "keys", "origin"}:
            width = max((stop for _, stop in state["spans"].values()), default=0)
            found, told = tuple(state["basis"].shape), (len(state["owner"]), width)
            if found != told:
                raise StateMismatch(
                    f"a basis of shape {found} in the state of OGD, which tells of {told}; "
                    "the state is damaged"
                )
            if state["keys"].shape != state["origin"].shape:
                raise StateMismatch(
                    f"{len(state['keys'])} keys in the state of OGD, for {len(state['origin'])} "
                    "rows; the state is damaged"
                )
        super().load_state_dict(state)
        self._cut = None

    def _parts(self, names: list[str]) -> list[Tensor]:
        """Cut an orthonormal basis of what the directions are for some of the parameters.

        It is worked out once for each set of names, and anew when the basis is another: that is
        replaced, never changed in place.
        """
        if self._cut is not None and self._cut[0] is self.basis and self._cut[1] == names:
            return self._cut[2]
        parts = [self.basis[:, slice(*self.spans[name])] for name in names]
        if len(names) < len(self.spans):
            parts = spanned(parts)
            self._cut = self.basis, names, parts
        return parts

    def _widen(self, learner: Learner) -> None:
        """Give parameters that have come since a place; old outputs do not depend on them."""
        before = width = self.basis.shape[1]
        for name, parameter in learner.parameters.items():
            if name not in self.spans:
                self.spans[name] = [width, width + parameter.numel()]
                width += parameter.numel()
        wide = self.basis.new_zeros(len(self.basis), width, device=learner.device)
        wide[:, :before] = self.basis
        self.basis = wide

    def _thin(self, share: int) -> None:
        """Keep at most so many directions of each task, at random, and leave room for one more.

        Whatever is given up, the others are orthonormal still.
        """
        owner = self.owner.cpu()
        order = torch.randperm(len(owner), generator=self.generator)
        order = order[owner[order].argsort(stable=True)]
        _, task, count = torch.unique(owner[order], return_inverse=True, return_counts=True)
        rank = torch.arange(len(order)) - (count.cumsum(0) - count)[task]
        order = order[rank < share]
        order = order[torch.randperm(len(order), generator=self.generator)]
        chosen = order[: self.directions - share].sort().values.to(self.basis.device)
        self.basis, self.owner = self.basis[chosen], self.owner.to(chosen.device)[chosen]


def _check_classes(output: Any, batch: Batch) -> None:
    check_class_ids(batch.y, "OGD needs class ids: take GPM, which looks at inputs alone")
    if not isinstance(output, Tensor) or output.ndim != 2:
        tensor = isinstance(output, Tensor)
        found = f"of shape {tuple(output.shape)}" if tensor else f"in a {type(output).__name__}"
        raise InvalidBatch(
            f"outputs {found} for targets of shape {tuple(batch.y.shape)}; OGD needs an output "
            "for each class, (rows, classes): take GPM, which looks at inputs alone"
        )


def _label_output(output: Any, batch: Batch) -> Tensor:
    _check_classes(output, batch)
    return output.gather(1, batch.y[:, None])[:, 0]  # type: ignore[no-any-return]


def orthonormal(rows: Tensor, basis: Tensor) -> Tensor:
    """Make an orthonormal basis of what rows add to the span of an orthonormal basis.

    Args:
        rows: (n, size); those that nearly depend on the basis and the rows before are left out.
        basis: (m, size).

    Returns:
        (n or fewer, size).

    Example:
        >>> rows = torch.tensor([[3.0, 4.0, 0.0], [3.0, 0.0, 0.0]])
        >>> orthonormal(rows, torch.tensor([[1.0, 0.0, 0.0]])).abs().tolist()
        [[0.0, 1.0, 0.0]]
    """
    length = rows.norm(dim=1, keepdim=True)
    some = length[:, 0] > 0
    rows = rows[some] / length[some]
    for _ in range(2):  # the second time takes out what rounding left in the first
        rows -= (rows @ basis.T) @ basis
    rows = rows[rows.norm(dim=1) > _DEPENDS][: max(0, rows.shape[1] - len(basis))]
    fresh = torch.linalg.qr(rows.T, mode="r").R.diagonal().abs() > _DEPENDS
    found: Tensor = torch.linalg.qr(rows[fresh].T).Q.T
    found = found - (found @ basis.T) @ basis
    found = torch.linalg.qr(found.T).Q.T
    return found.contiguous()
