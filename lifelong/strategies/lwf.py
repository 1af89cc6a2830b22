"""LwF: learning without forgetting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.forward import forward, frozen_copy
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.strategies.quadratic import checked_strength


class LwF(Strategy):
    """Keep what the model as it was after the last task would answer to the new rows.

    penalty = strength * T**2 * mean over rows of -sum_c p_c(teacher / T) * log p_c(model / T)
    Li & Hoiem 2016, arXiv:1606.09282; the factor T**2 is Hinton et al.'s, arXiv:1503.02531.

    p is the softmax over the teacher's classes for the teacher, and over all present classes for
    the model, so that new classes are taught a probability of 0 (van de Ven & Tolias 2018,
    arXiv:1809.10635). A model that wants the task id is compared task by task, on the classes of
    each old one, and the mean over old tasks is taken.

    Args:
        strength: of the penalty.
        temperature: T; above 1 it softens both sides.
        per_task: multiply the strength by the number of old tasks, so that each weighs as much
            as the new one (as van de Ven & Tolias do).

    Raises:
        ValueError: a negative strength, or a temperature that is not positive.

    Example:
        >>> LwF(strength=1.0).temperature
        2.0
    """

    state: ClassVar[tuple[str, ...]] = ("teacher", "width", "known")

    def __init__(
        self, strength: float = 1.0, *, temperature: float = 2.0, per_task: bool = False
    ) -> None:
        self.strength = checked_strength(strength)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.temperature = temperature
        self.per_task = per_task
        self.teacher: dict[str, Tensor] = {}
        self.width = 0
        """How many outputs the teacher has."""
        self.known: list[list[int]] = []
        """The classes of each old task."""
        self._copies: slice | None = None
        self._frozen: nn.Module = nn.Identity()
        self._taken_from: dict[str, Tensor] | None = None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """For a model that wants the task: append the new rows once more, with the task unknown.

        So the answers of all old tasks' heads are at hand. Their labels do not count.
        """
        self._copies = None
        if not self.teacher or not learner.task_aware:
            return batch
        copies = batch.rows(slice(batch.new))
        nothing = torch.zeros(batch.new, device=batch.y.device)
        copies = replace(copies, task=torch.full_like(copies.task, -1), weight=nothing)
        self._copies = slice(len(batch), len(batch) + batch.new)
        return batch.extended(copies)

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Cross-entropy between the teacher's softened answers to the new rows and the model's."""
        if not self.teacher:
            return 0.0
        rows = self._copies or slice(batch.new)
        whole = rows == slice(len(batch))
        asked = batch if whole else batch.rows(rows)
        task = asked.task if learner.task_aware else None
        if self._taken_from is not self.teacher:
            self._frozen = frozen_copy(learner.model, self.teacher)
            self._taken_from = self.teacher
        with torch.no_grad(), learner.autocast():
            taught = forward(self._frozen, asked.x, task)
        student: Tensor = output if whole else output[rows]
        groups = self.known if learner.task_aware else [None]
        losses = [self._distance(student, taught, classes) for classes in groups]
        tasks = len(self.known) if self.per_task else 1
        mean = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        return self.strength * tasks * mean

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Take the model as it is for the next teacher."""
        model = learner.model
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.teacher = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        first = next(iter(data))
        some = first.rows(slice(1))
        self.width = learner.predict(some.x, some.task).shape[1]
        seen: dict[int, set[int]] = {}
        for task in learner.tasks:
            seen.setdefault(task.id, set()).update(task.classes)
        self.known = [sorted(classes or range(self.width)) for classes in seen.values()]
        self.known = self.known or [list(range(self.width))]

    def _distance(self, student: Tensor, taught: Tensor, classes: list[int] | None) -> Tensor:
        """Compare on some classes, or on all with what the teacher lacks taught to be 0."""
        if classes is None:
            taught, rest = taught[:, : self.width], student.shape[1] - self.width
        else:
            taught, student, rest = taught[:, classes], student[:, classes], 0
        target = F.softmax(taught.float() / self.temperature, 1)
        if rest:
            target = F.pad(target, (0, rest))
        answer = F.log_softmax(student.float() / self.temperature, 1)
        # The sum of products as one operation: cross_entropy takes five, and as many backwards.
        agreement = torch.dot(answer.flatten(), target.flatten())
        return agreement * (-(self.temperature**2) / len(target))
