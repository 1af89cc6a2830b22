"""Feature replay: what the head saw of old classes, made by normal distributions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.core.features import head_of, tapped
from lifelong.core.forward import evaluating, wants_task
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.nets.generators.gaussians import ClassGaussians
from lifelong.strategies.quadratic import checked_strength


class FeatureReplay(Strategy):
    """Teach the head features of old classes, drawn from a normal distribution for each.

    penalty = strength * old classes / new classes * mean cross-entropy of head(f) and c,
    f ~ N(mean_c, covariance_c), for old classes c in turn
    Zhang et al. 2023, arXiv:2303.05118 (SLCA), who align the head so after each task.

    Here the head learns old and new classes at once. That holds as long as the features do: after
    the first task all weights before the head stay as they are, unless `frozen` is off; then take
    an optimizer with a small learning rate for the backbone, as SLCA does. Batch norms go on
    normalising by each batch, and their running statistics move with the stream, so that features
    do too: take norms without (group or layer norms), or put them in eval mode yourself. Without
    a generator to train it costs little, for small devices; with "shared" or "diagonal" it stores
    little, too.

    New classes are those that the task names, or else those of its new rows so far. It keeps no
    rows, so `forget` has none to drop; sums that they are part of stay.

    Args:
        strength: 1 to let each class weigh as much as any other.
        covariance: "class", "shared" or "diagonal"; see `ClassGaussians`.
        shrinkage: what is added to the diagonals, in parts of the mean variance.
        rows: how many features to draw for each batch; None for as many as rows are new.
        frozen: whether the backbone stays after the first task.

    Raises:
        ValueError: a number is out of range; from the step, a model without a head.
        InvalidBatch: labels are no classes.

    Example:
        >>> FeatureReplay(covariance="diagonal").frozen
        True
    """

    state: ClassVar[tuple[str, ...]] = ("gaussians", "tasks", "positive", "fresh")

    def __init__(
        self,
        strength: float = 1.0,
        *,
        covariance: str = "class",
        shrinkage: float = 0.05,
        rows: int | None = None,
        frozen: bool = True,
    ) -> None:
        self.strength = checked_strength(strength)
        if rows is not None and rows < 1:
            raise ValueError(f"rows is {rows}; it must be 1 or more, or None for as many as new")
        self.rows = rows
        self.frozen = frozen
        self.gaussians = ClassGaussians(covariance, shrinkage=shrinkage)
        self.tasks: dict[str, int] = {}
        """The task in which each class came last."""
        self.positive = True
        """Whether no feature has ever been below 0, as after a ReLU; then none is drawn so."""
        self.fresh = torch.zeros(0, dtype=torch.bool)
        """Which classes have come since the last consolidation, where the task names none."""
        self._come: Tensor | None = None

    def attach(self, device: torch.device, seed: int) -> None:
        """Tell the distributions where to compute, too."""
        super().attach(device, seed)
        self.gaussians.device = device

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """The loss of the head on features of old classes."""
        del output
        self._come = None
        if batch.y.dtype != torch.int64 or batch.y.ndim != 1:
            raise InvalidBatch(
                f"y is {batch.y.dtype} of shape {tuple(batch.y.shape)}; features are kept by "
                "class: give int64 labels, (rows,)"
            )
        classes, head = self.gaussians.classes, head_of(learner.model)
        if not classes:
            return 0.0
        features, y = self.gaussians.sample(self.rows or batch.new, self.generator)
        features = features.clamp_min(0) if self.positive else features
        told = {}
        if wants_task(head):
            homes = torch.tensor([self.tasks[str(c)] for c in classes], device=y.device)
            told = {"task": homes.repeat_interleave(len(y) // len(classes))}
        features = features.to(next(head.parameters(), features).dtype)
        with learner.autocast():
            logits = head(features, **told)
        named = learner.tasks[-1].classes if learner.tasks else ()
        if not named:
            self._come = self._with(batch.y[: batch.new], logits.shape[1])
        fresh = len(named) if self._come is None else self._come.sum().clamp_min(1)  # no wait
        return self.strength * len(classes) / fresh * F.cross_entropy(logits.float(), y)

    def project(self, learner: Learner) -> None:
        """After the first task, leave the head alone to learn."""
        if not (self.frozen and self.gaussians.classes):
            return
        head = {id(p) for p in head_of(learner.model).parameters()}
        for parameter in learner.parameters.values():
            if id(parameter) not in head:
                parameter.grad = None  # so that optimizers with moments leave it, too

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Remember which classes have come, where that is not told."""
        del learner, batch, output
        if self._come is not None:
            self.fresh = self._come

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Take in the features of the task's rows."""
        self.fresh = torch.zeros(0, dtype=torch.bool)
        with (
            torch.no_grad(),
            evaluating(learner.model),
            tapped(learner.model) as tap,
            learner.autocast(),
        ):
            for batch in data:
                learner.output(batch)
                features = tap.features.flatten(1)
                self.gaussians.add(features, batch.y)
                self.positive = self.positive and bool((features >= 0).all())
                pairs = torch.unique(torch.stack((batch.y, batch.task), 1), dim=0).tolist()
                self.tasks = {**self.tasks, **{str(c): task for c, task in pairs}}

    def state_dict(self) -> State:
        """Everything that changes and outlives a step; the classes that have come by their ids."""
        return {**super().state_dict(), "fresh": self.fresh.nonzero().flatten().tolist()}

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: it is another strategy's, or the classes that have come are no ids.
        """
        come = state.get("fresh", [])
        if not isinstance(come, list) or not all(type(c) is int and 0 <= c < 2**24 for c in come):
            raise StateMismatch(
                f"the classes that have come are {come!r} in a state; it is damaged"
            )
        fresh = torch.zeros(max(come, default=-1) + 1, dtype=torch.bool)
        fresh[come] = True
        super().load_state_dict({**state, "fresh": fresh} if "fresh" in state else state)

    def _with(self, y: Tensor, outputs: int) -> Tensor:
        """Mark the classes that have come, these too, of so many."""
        come = torch.zeros(max(outputs, len(self.fresh)), dtype=torch.bool, device=y.device)
        come[: len(self.fresh)] = self.fresh.to(come)
        return come.scatter(0, y.clamp(0, len(come) - 1), True)  # others have no loss
