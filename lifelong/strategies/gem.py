"""GEM and A-GEM: steps that do not raise the loss on rows kept from the past."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.forward import forward
from lifelong.core.group_gradients import group_gradients
from lifelong.core.learner import Learner
from lifelong.core.nonnegative import nonnegative_minimum
from lifelong.core.strategy import State, Strategy
from lifelong.core.undisturbed import undisturbed
from lifelong.memory import Memory

_ROUNDING = 1e-6
"""Of products of float32 gradients, as a share of the largest: less is no violation."""


class GEM(Strategy):
    """Change each step as little as possible so that no past task's loss on its kept rows rises.

    g~ = argmin ||g + margin * sum_t g_t - g~||**2 with <g~, g_t> >= 0 for all past tasks t,
    if <g, g_t> < 0 for any of them; g_t is the gradient on the kept rows of task t.
    Lopez-Paz & Ranzato 2017, arXiv:1706.08840 (gradient episodic memory; margin is gamma).

    The authors ask the dual variables to be gamma or more, which is the same, and add 0.001 to the
    diagonal of their matrix; here the program is solved as it stands. They keep a task's latest
    rows, here it is a uniform sample drawn when the task is consolidated; the tasks share the
    capacity equally. g_t is that of the model as it predicts, in eval mode. What holds is a
    property of the gradient: momentum, Adam and weight decay may step elsewhere.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take: "10MB".
        margin: how much of each past task's own gradient is added when there is a violation.
        rows: how many rows to look at in a step, shared equally by the past tasks and drawn anew
            each time; with as many as the capacity it is all of them, as in the paper.
        device: where the memory lies, for instance "cuda".
        path: a folder, to hold the memory in files on disk instead.

    Raises:
        ValueError: the capacity or the number of rows is not positive, or the margin negative.
        BudgetTooSmall: from the step, when there are more tasks than rows with the open one.

    Example:
        >>> GEM(capacity=200, margin=1.0).margin
        1.0
    """

    state: ClassVar[tuple[str, ...]] = ("memory", "tasks")

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        margin: float = 0.5,
        rows: int = 256,
        device: str | torch.device = "cpu",
        path: str | Path | None = None,
    ) -> None:
        if not 0 <= margin < float("inf"):
            raise ValueError(f"margin is {margin}; it must be a finite number of 0 or more")
        if rows < 1:
            raise ValueError(f"rows is {rows}; it must be 1 or more, or the capacity for all")
        self.margin = margin
        self.rows = rows
        self.memory = Memory(capacity, "balanced", device=device, path=path)
        self.tasks = 0
        """How many times rows were kept: each has a constraint of its own."""
        self._slots: tuple[Tensor, Tensor] | None = None

    @property
    def capacity(self) -> int | str:
        """What the memory was given: rows, or bytes, such as "10000000B"."""
        budget = self.memory.budget
        return self.memory.capacity if budget is None else f"{budget}B"

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Make sure that there will be room for rows of the open task when it is over."""
        ended = learner.current is None and bool(learner.tasks)
        if not ended and (self.memory.budget is None or self.memory.nbytes):
            self.memory.check({}, 1 + len(self.memory.policy.sharing or ()))
        return batch

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Project the gradient onto the cone, if it lies outside."""
        learned = {n: p for n, p in learner.parameters.items() if p.grad is not None}
        if not len(self.memory) or not learned:
            return
        rows, weight = self._drawn(learner)
        found = group_gradients(learner.model, rows, weight, learner.loss, learned)
        past = [gradients.flatten(1) for gradients in found.values()]  # (tasks, values) each
        own = [p.grad for p in learned.values() if p.grad is not None]
        along = torch.stack([g @ o.flatten() for g, o in zip(past, own, strict=True)]).sum(0)
        if bool((along >= 0).all()):
            return
        gram = torch.stack([g @ g.T for g in past]).sum(0)
        share = torch.from_numpy(_duals(gram, along, self.margin)).to(along)
        for gradient, gradients in zip(own, past, strict=True):
            gradient.add_((share @ gradients).view_as(gradient))

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Keep a uniform sample of the task's rows, and fewer of the tasks before."""
        del learner
        for batch in data:
            own = {name: column for name, column in batch.columns() if name != "weight"}
            own["kept_with"] = torch.full_like(batch.key, self.tasks)
            self.memory.check(own, group=own["kept_with"])
            self.memory.add(own, own["kept_with"], self.generator)
        self.tasks += 1
        self._slots = None

    def forget(self, keys: Tensor) -> int:
        """Erase the rows with these ids from the memory, and count them."""
        self._slots = None
        return self.memory.forget(keys)

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state."""
        super().load_state_dict(state)
        self._slots = None

    def _drawn(self, learner: Learner) -> tuple[Batch, Tensor]:
        """Read rows of every past task, equally many of each; the weight is 0 of what fills up."""
        if self._slots is None:
            self._slots = _table(self.memory.all()["kept_with"].cpu())
        slots, count = self._slots
        place = torch.arange(slots.shape[1])
        each = max(1, self.rows // len(slots))
        if self.rows < len(self.memory) and each < len(place):
            chance = torch.rand(slots.shape, generator=self.generator)
            chance[place >= count[:, None]] = 2.0  # last come those that only fill up
            slots, place = slots.gather(1, chance.argsort(1)[:, :each]), place[:each]
        drawn = self.memory.read(slots.flatten())
        weight = (place < count[:, None]).float().to(learner.device)
        return batch_of_columns(drawn).to(learner.device), weight


class AGEM(GEM):
    """Take out of each step what would raise the average loss on a draw of rows from the past.

    g~ = g - min(<g, r>, 0) / <r, r> * r, where r is the gradient on the rows drawn
    Chaudhry et al. 2019, arXiv:1812.00420 (averaged GEM).

    The memory is that of `GEM`. r is that of the model as it predicts, in eval mode.

    Args:
        capacity: how many rows the memory holds, or the bytes that they may take: "10MB".
        rows: how many to draw for each step; all of them, if it holds fewer.
        device: where the memory lies, for instance "cuda".
        path: a folder, to hold the memory in files on disk instead.

    Raises:
        ValueError: the capacity or the number of rows is not positive.
        BudgetTooSmall: as in `GEM`.

    Example:
        >>> AGEM(capacity=200).rows
        256
    """

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        rows: int = 256,
        device: str | torch.device = "cpu",
        path: str | Path | None = None,
    ) -> None:
        super().__init__(capacity, margin=0.0, rows=rows, device=device, path=path)

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Project the gradient onto the half-space, if it lies outside."""
        learned = [p for p in learner.parameters.values() if p.grad is not None]
        if not len(self.memory) or not learned:
            return
        rows = batch_of_columns(self.memory.draw(self.rows, self.generator)).to(learner.device)
        with undisturbed(learner.model):
            task = rows.task if learner.task_aware else None
            loss = learner.mean_loss(forward(learner.model, rows.x, task), rows)
            if not loss.requires_grad:
                return
            found = torch.autograd.grad(loss, learned, allow_unused=True)
        pairs = [(p.grad, r) for p, r in zip(learned, found, strict=True) if r is not None]
        own, past = [g for g, _ in pairs if g is not None], [r for _, r in pairs]
        along = torch.stack(_dots(own, past)).sum()
        length = torch.stack(_dots(past, past)).sum().clamp_(min=torch.finfo(along.dtype).tiny)
        # Nothing is asked of the device, which need not be waited for.
        share = (-along / length).clamp_(min=0.0)
        torch._foreach_add_(own, torch._foreach_mul(past, share))


def _dots(one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    return [torch.dot(a.flatten(), b.flatten()) for a, b in zip(one, other, strict=True)]


def _duals(
    gram: Tensor, along: Tensor, margin: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Find how much of each past gradient to add, (tasks,).

    Gradients are brought to length 1 first, so that a task that is learned well counts as any.
    """
    square, slope = gram.double().cpu().numpy(), along.double().cpu().numpy()
    length = np.sqrt(square.diagonal())
    length[length == 0] = np.inf
    slope = (slope + margin * square.sum(1)) / length
    square = square / np.outer(length, length)
    share: NDArray[np.float64] = nonnegative_minimum(square, slope, _ROUNDING) / length
    return share + margin


def _table(kept_with: Tensor) -> tuple[Tensor, Tensor]:
    """List each task's slots, (tasks, most rows of a task), and count them; 0 fills up.

    Example:
        >>> _table(torch.tensor([7, 4, 7]))
        (tensor([[1, 0],
                [0, 2]]), tensor([1, 2]))
    """
    order = kept_with.argsort(stable=True)
    _, task, count = torch.unique(kept_with[order], return_inverse=True, return_counts=True)
    rank = torch.arange(len(order)) - (count.cumsum(0) - count)[task]
    slots = torch.zeros(len(count), int(count.max()), dtype=torch.int64)
    slots[task, rank] = order
    return slots, count
