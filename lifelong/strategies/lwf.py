"""LwF: learning without forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.strategies.class_ids import check_named
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.recorded import Recorded
from lifelong.strategies.teacher import (
    Frozen,
    Rows,
    answers,
    checked_rows,
    chosen,
    of_classes,
    snapshot,
    softened,
)

_OTHERS = "LwF compares probabilities of classes: for other targets take FeatureDistillation"


class LwF(Strategy):
    """Keep what the model as it was after the last task would answer to the new rows.

    penalty = strength * T**2 * mean over rows of -sum_c p_c(teacher / T) * log p_c(model / T)
    Li & Hoiem 2016, arXiv:1606.09282; the factor T**2 is Hinton et al.'s, arXiv:1503.02531.

    p is the softmax over the teacher's classes for the teacher, and over all present classes for
    the model, so that new classes are taught a probability of 0 (van de Ven & Tolias 2018,
    arXiv:1809.10635). Where a row has a label at each of several positions, the mean is over those
    too. A model that wants the task id is compared task by task, on the classes of each old one,
    and the mean over old tasks is taken.

    Args:
        strength: of the penalty.
        temperature: T; above 1 it softens both sides.
        per_task: multiply the strength by the number of old tasks, so that each weighs as much
            as the new one (as van de Ven & Tolias do).
        rows: which to compare: "new" as in the paper; "replayed", those that other strategies
            append from a memory or a generator; or "all". For a model that wants the task, only
            those count that strategies before this one have appended.
        record: of how many rows of a task to keep the teacher's answers, by the rows' ids. The
            teacher is then asked about each once, as in the paper, and later passes hardly cost
            more than fine-tuning. A row that comes changed, such as an augmented one, or without
            an id, is asked about again.

    Raises:
        ValueError: a negative strength or record, a temperature that is not positive, or other
            rows.
        InvalidBatch: from the step, outputs that are not of classes, or for a model that wants the
            task not of all classes named; from the first, rows without ids for `record`.

    Example:
        >>> LwF(strength=1.0).temperature
        2.0
    """

    state: ClassVar[tuple[str, ...]] = ("teacher", "width", "known", "recorded")
    only_read: ClassVar[tuple[str, ...]] = ("recorded",)

    def __init__(
        self,
        strength: float = 1.0,
        *,
        temperature: float = 2.0,
        per_task: bool = False,
        rows: Rows = "new",
        record: int = 0,
    ) -> None:
        self.strength = checked_strength(strength)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.temperature = temperature
        self.per_task = per_task
        self.rows = checked_rows(rows)
        if record < 0:
            raise ValueError(f"record is {record}; give how many rows, 0 for none")
        self.record = record
        self.recorded = Recorded(record)
        """What the teacher answered to rows of this task, if that is kept."""
        self.teacher: dict[str, Tensor] = {}
        self.width = 0
        """How many outputs the teacher has."""
        self.known: list[list[int]] = []
        """The classes of each old task."""
        self._copies = slice(0, 0)
        self._taught: Tensor | None = None
        self._frozen = Frozen()

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """For a model that wants the task: append the rows once more, with the task unknown.

        So the answers of all old tasks' heads are at hand. Their labels do not count. For other
        models, ask the teacher about new rows now: between the student's forward and backward
        pass it would drive what that needs out of the processor's cache.
        """
        if self.record and not learner.batches and bool((batch.key == -1).all()):
            raise InvalidBatch(
                f"none of these {len(batch)} rows has a key, by which answers are kept "
                f"(record={self.record}); give ids, Batch.of(..., key=ids), or leave record out"
            )
        self._copies, self._taught = slice(0, 0), None
        self.recorded.discard()  # what a step that failed has asked
        where = chosen(batch, self.rows)
        if not self.teacher or where.start == where.stop:
            return batch
        if not learner.task_aware:
            if self.rows == "new":
                asked = batch if batch.new == len(batch) else batch.rows(where)
                self._taught = self._asked(learner, asked)
            return batch
        copies = batch.rows(where)
        nothing = torch.zeros(len(copies), device=batch.y.device)
        copies = replace(copies, task=torch.full_like(copies.task, -1), weight=nothing)
        self._copies = slice(len(batch), len(batch) + len(copies))
        return batch.extended(copies)

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Cross-entropy between the teacher's softened answers and the model's."""
        output = of_classes(output, batch, _OTHERS)
        if learner.task_aware:
            check_named(learner.tasks, output)
        where = self._copies if learner.task_aware else chosen(batch, self.rows)
        if not self.teacher or where.start == where.stop:
            return 0.0
        whole = where == slice(0, len(batch))
        taught, self._taught = self._taught, None
        if taught is None:
            asked = batch if whole else batch.rows(where)
            taught = self._asked(learner, asked)
        student: Tensor = output if whole else output[where]
        strength = self.strength * (len(self.known) if self.per_task else 1)
        if not learner.task_aware:
            return softened(student, taught, self.temperature, strength)
        heads = [
            softened(student[:, classes], taught[:, classes], self.temperature, strength)
            for classes in self.known
        ]
        return torch.stack(heads).mean()

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Keep what the teacher was asked, now that the step is done."""
        del learner, batch, output
        self.recorded.commit()

    def acts(self, moment: str) -> bool:
        """After a step there is something to keep only if answers are recorded."""
        return super().acts(moment) and (self.record > 0 or moment != "after_step")

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Take the model as it is for the next teacher."""
        self.recorded = Recorded(self.record)
        self.teacher = snapshot(learner.model)
        first = next(iter(data))
        some = first.rows(slice(1))
        self.width = learner.predict(some.x, some.task).shape[1]
        seen: dict[int, set[int]] = {}
        for task in learner.tasks:
            seen.setdefault(task.id, set()).update(task.classes)
        self.known = [sorted(classes or range(self.width)) for classes in seen.values()]
        self.known = self.known or [list(range(self.width))]

    def forget(self, keys: Tensor) -> int:
        """Erase the answers to these rows, and count them."""
        return self.recorded.drop(keys)

    def undo(self) -> Callable[[], None]:
        """Copy what the end of a task changes; its answers are left behind whole."""
        put_back, recorded = super().undo(), self.recorded

        def restore() -> None:
            put_back()
            self.recorded = recorded

        return restore

    def _asked(self, learner: Learner, asked: Batch) -> Tensor:
        teacher = self._frozen.of(learner, self.teacher)

        def told(rows: Batch) -> Tensor:
            return answers(learner, teacher, rows)[:, : self.width]

        return self.recorded.ask(asked, told) if self.record else told(asked)
