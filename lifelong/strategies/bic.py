"""BiC: a linear correction of the outputs of new classes, fitted on rows held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.features import head_of
from lifelong.core.learner import Learner
from lifelong.core.random import scattered
from lifelong.memory import Memory
from lifelong.memory.budget import bytes_of
from lifelong.nets.nearest_mean import linear_outputs
from lifelong.strategies.class_ids import check_class_ids
from lifelong.strategies.replay import Replay
from lifelong.strategies.teacher import of_one_class
from lifelong.strategies.wa import told_apart

DAMPING = 1e-3
"""Holds the correction near none where the rows held out leave it open."""
LEAST = 0.01
"""The smallest alpha: one below 0 would turn the order of a class's outputs around."""
_CLASSES = "BiC corrects the outputs of new classes: take Replay for others"


class BiC(Replay):
    """Replay, and at the end of a task correct the outputs of its classes by two numbers.

    output_c <- alpha * output_c + beta for the new classes c,
    alpha, beta = argmin of the mean cross-entropy of the rows held out, alpha >= 0.01
    Wu et al. 2019, arXiv:1905.13260 (large scale incremental learning).

    The correction is folded into the head, so that prediction, export and the next task start
    from it. The problem is convex, so it is solved, instead of by hundreds of epochs of SGD. In
    a head without biases, beta is 0. A
    part of the rows that come, chosen by their id (by chance where they have none), is not
    learned from (weight 0) and goes to a memory of its own. The paper distils as well: put `LwF`
    before it in the list.

    Args:
        capacity: how many rows the two memories hold together, or the bytes that they may take.
        validation: which part of the capacity and of the stream is held out.
        **settings: as in `Replay`; the policy is "balanced" unless told otherwise.

    Raises:
        ValueError: a part that is not between 0 and 1, or a capacity below 2; from the step, a
            head without linear weights for each class.
        InvalidBatch: labels are no classes, or the outputs not one for each.

    Example:
        >>> bic = BiC(capacity=500)
        >>> bic.memory.capacity, bic.aside.capacity
        (450, 50)
    """

    own_pace: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("memory", "aside", "seen")
    row_losses = True
    only_read: ClassVar[tuple[str, ...]] = ("memory", "aside")

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        validation: float = 0.1,
        policy: str = "balanced",
        **settings: Any,
    ) -> None:
        size = bytes_of(capacity) if isinstance(capacity, str) else capacity
        if not 0 < validation < 1 or size < 2:
            raise ValueError(
                f"capacity is {capacity} and validation {validation}; there must be at least one "
                "row to learn from and one to hold out (such as validation=0.1)"
            )
        part = min(max(round(size * validation), 1), size - 1)
        both: list[int | str] = [size - part, part]
        if isinstance(capacity, str):
            both = [f"{share}B" for share in both]
        super().__init__(both[0], policy=policy, **settings)
        self.validation = validation
        place, device = settings.get("path"), settings.get("device", "cpu")
        path = None if place is None else Path(place) / "aside"
        self.aside = Memory(both[1], "balanced", device=device, path=path, store=self.memory.codec)
        self.seen: list[int] = []
        """The classes of earlier tasks."""
        self._out = torch.zeros(0, dtype=torch.bool)

    @property
    def capacity(self) -> int | str:
        """What both memories were given together: rows, or bytes, such as "10000000B"."""
        if self.memory.budget is None or self.aside.budget is None:
            return self.memory.capacity + self.aside.capacity
        return f"{self.memory.budget + self.aside.budget}B"

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Choose the rows to hold out, which get the weight 0, and append rows to replay."""
        check_class_ids(batch.y, _CLASSES)
        key = batch.key[: batch.new]
        chance = torch.rand(len(key), generator=self.generator).to(key.device)
        self._out = torch.where(key < 0, chance, scattered(key)) < self.validation
        weight = torch.ones(len(batch), device=batch.y.device)
        weight = weight if batch.weight is None else batch.weight.clone()
        weight[: batch.new].masked_fill_(self._out, 0)
        return super().extend(learner, replace(batch, weight=weight))

    def check(
        self,
        learner: Learner,
        batch: Batch,
        more: Mapping[str, Tensor] | None = None,
        wider: str | None = None,
    ) -> None:
        """Make sure that new rows can be kept in both memories."""
        super().check(learner, batch, more, wider)
        columns = self.kept(batch)
        if self.aside.budget is None:  # two numbers can be fitted on rows of some of the classes
            self.aside.check(columns)
        else:
            self.aside.check(columns, self.groups(learner), group=self.group(columns))

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> float:
        """Add nothing; look at the head, which the end of the task will correct."""
        of_one_class(output, batch, _CLASSES)
        linear_outputs(head_of(learner.model))
        return 0.0

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer each new row to its memory."""
        del learner, output
        new = batch.rows(slice(batch.new))
        for memory, chosen in ((self.memory, ~self._out), (self.aside, self._out)):
            columns = self.kept(new.rows(chosen))
            memory.add(columns, self.group(columns), self.generator)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Fit the correction of the classes that are new, and fold it into the head."""
        layers = linear_outputs(head_of(learner.model))
        new, both = told_apart(self.seen, data)
        before, self.seen = self.seen, both
        if not (before and new and len(self.aside)):
            return
        rows = batch_of_columns(self.aside.all()).to(learner.device)
        at = torch.tensor(both, device=learner.device)
        rows = rows.rows(torch.isin(rows.y, at))
        logits = learner.predict(rows.x, rows.task)[:, at]
        corrected = torch.isin(at, torch.tensor(new, device=learner.device))
        shift = all(layer.bias is not None for layer in layers)
        alpha, beta = fitted(logits, torch.searchsorted(at, rows.y), corrected, shift=shift)
        at = at[corrected]
        first = 0
        for layer in layers:
            inside = at[(at >= first) & (at < first + layer.out_features)] - first
            with torch.no_grad():
                layer.weight[inside] *= alpha
                if layer.bias is not None:
                    layer.bias[inside] = layer.bias[inside] * alpha + beta
            first += layer.out_features

    def forget(self, keys: Tensor) -> int:
        """Erase the rows with these ids from both memories, and count them."""
        return super().forget(keys) + self.aside.forget(keys)


def fitted(
    logits: Tensor, y: Tensor, corrected: Tensor, *, shift: bool = True
) -> tuple[float, float]:
    """Find the alpha and beta of some classes that give these rows the least cross-entropy.

    Args:
        logits: (rows, classes).
        y: (rows,) which of the classes.
        corrected: (classes,) bool, which of them are corrected.
        shift: whether there is a beta; it is 0 otherwise.

    Example:
        >>> logits = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 5.0], [0.0, 2.5]])
        >>> alpha, beta = fitted(logits, torch.tensor([0, 0, 1, 1]), torch.tensor([False, True]))
        >>> alpha > 0 > beta
        True
    """
    alpha, beta = _solved(logits, y, corrected, 1.0, (True, shift))
    if alpha < LEAST:  # in a convex problem, the best that is allowed lies on the bound then
        alpha, beta = _solved(logits, y, corrected, LEAST, (False, shift))
    return alpha, beta


def _solved(
    logits: Tensor, y: Tensor, corrected: Tensor, alpha: float, free: tuple[bool, bool]
) -> tuple[float, float]:
    """Minimise over what is free of alpha and beta, from an alpha and 0; the rest stays there."""
    logits = logits.detach().double()
    none, start = logits.new_tensor([1.0, 0.0]), logits.new_tensor([alpha, 0.0])
    moves = logits.new_tensor(free)
    both = start.clone().requires_grad_()
    solver = torch.optim.LBFGS([both], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        at = torch.where(moves > 0, both, start)
        output = torch.where(corrected, logits * at[0] + at[1], logits)
        value = F.cross_entropy(output, y) + DAMPING * (at - none).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    alpha, beta = both.tolist()
    return alpha, beta
