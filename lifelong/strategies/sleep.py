"""Sleep: between two tasks, replay, be taught by oneself, and prune, with no new rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import NonFiniteLoss
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.memory import Memory
from lifelong.nets.heads import MASKED
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.teacher import Frozen, answers, of_one_class, snapshot, softened
from lifelong.strategies.tuning import norms_kept

_OTHERS = (
    "a row's teacher is the one surer of its class: for other targets switch it off with strength=0"
)


class Sleep(Strategy):
    """Learn past rows at the end of each task, for a fixed number of steps, and no new ones.

    loss = mean row loss + strength * T**2 * mean of -sum_c p_c(teacher / T) * log p_c(model / T)
    Harun et al. 2023, arXiv:2303.10725 (SIESTA: a bounded number of updates on rows drawn equally
    from all classes); the teacher of each row is, of the model as it last awoke and as it fell
    asleep, the one surer of the row's label, as Arani et al. 2022, arXiv:2201.12604, choose
    between two. Pruning is by magnitude, Han et al. 2015, arXiv:1506.02626.

    Awake, SIESTA moves the last layer alone and sleep trains on features; here all weights learn
    in both. Sleep has an optimizer of its own (SGD with a momentum of 0.9, made anew each time) at
    full precision; that of the learner is left as it is. How long it takes is a number of steps,
    so that learning stays a function of the log. Its steps pass the other strategies by: put it
    first in the list, so that they consolidate what it leaves, and not beside one that freezes
    weights.

    Args:
        capacity: how many rows its memory holds, or bytes such as "10MB"; equally many of each
            class.
        steps: of each sleep; 0 for none.
        rows: in each of these steps.
        lr: of these steps.
        strength: of the distillation; 0 switches it off, which losses other than classes need.
        temperature: T.
        prune: the share of each weight matrix, its smallest entries, that is set to 0 before a
            sleep, which heals the loss; they are 0 for ever after.
        memory: another strategy's memory, such as `replay.memory`, to sleep on its rows instead;
            that strategy keeps and saves them.

    Raises:
        ValueError: a setting out of range.
        NonFiniteLoss: sleeping diverged; everything is as it was before.
        InvalidBatch: from the step, labels or outputs that cannot be distilled.

    Example:
        >>> Sleep(capacity=200, steps=50).prune
        0.0
    """

    state: ClassVar[tuple[str, ...]] = ("kept", "awoke", "width", "memory")
    only_read: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        steps: int = 200,
        rows: int = 64,
        lr: float = 0.03,
        strength: float = 1.0,
        temperature: float = 2.0,
        prune: float = 0.0,
        memory: Memory | None = None,
    ) -> None:
        for name, count, least in (("steps", steps, 0), ("rows", rows, 1)):
            if count < least:
                raise ValueError(f"{name} is {count}; it must be {least} or more")
        for name, value in (("lr", lr), ("temperature", temperature)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be positive")
        if not 0 <= prune < 1:
            raise ValueError(f"prune is {prune}; it must be 0 or more, and below 1")
        self.steps, self.rows, self.lr = steps, rows, lr
        self.strength = checked_strength(strength)
        self.temperature = temperature
        self.prune = prune
        self.memory = Memory(capacity, "balanced") if memory is None else memory
        self._borrowed = memory is not None
        if self._borrowed:  # its owner saves it
            self.state = ("kept", "awoke", "width")  # type: ignore[misc]
        self.kept: dict[str, Tensor] = {}
        """By parameter name, which weights have not been pruned."""
        self.awoke: dict[str, Tensor] = {}
        """The model as it last awoke."""
        self.width = 0
        """How many outputs it had."""

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> float:
        """Add nothing; make sure that the new rows, as all strategies leave them, can be kept."""
        del learner
        if self.strength and self.steps:
            of_one_class(output, batch, _OTHERS)
        if not self._borrowed:
            self.memory.check(_new(batch), group=_group(batch))
        return 0.0

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Keep the new rows, and pruned weights at 0."""
        del output
        self._hold(learner)
        if self._borrowed:
            return
        self.memory.add(_new(batch), _group(batch), self.generator)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Prune, and sleep on the rows in the memory."""
        if len(self.memory) == 0:
            return
        asleep = snapshot(learner.model)
        teachers = [Frozen().of(learner, held) for held in (self.awoke, asleep) if held]
        if self.prune:
            self._prune(learner)
        optimizer = SGD(learner.parameters.values(), lr=self.lr, momentum=0.9)
        for _ in range(self.steps):
            drawn = self.memory.draw(self.rows, self.generator)
            batch = batch_of_columns({n: column.to(learner.device) for n, column in drawn.items()})
            with norms_kept(learner.model, len(batch)):
                output = learner.output(batch)
            loss = learner.mean_loss(output, batch)
            if self.strength:
                taught = self._teach(learner, teachers, batch)
                loss = loss + softened(output, taught, self.temperature, self.strength)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            self._hold(learner)
        if not all(bool(weight.isfinite().all()) for weight in learner.parameters.values()):
            raise NonFiniteLoss(
                f"weights are not finite after {self.steps} steps of sleep; lower its lr "
                f"({self.lr}) or its strength ({self.strength}); the learner is as it was"
            )
        self.awoke = snapshot(learner.model)
        some = next(iter(data)).rows(slice(1))
        teaches = self.strength and self.steps
        self.width = learner.predict(some.x, some.task).shape[1] if teaches else 0

    def forget(self, keys: Tensor) -> int:
        """Erase the rows with these ids from the memory, and count them."""
        return self.memory.forget(keys)

    def _teach(self, learner: Learner, teachers: list[nn.Module], batch: Batch) -> Tensor:
        """Take the answers to each row of the teacher that is surer of its label."""
        *past, present = [answers(learner, teacher, batch).float() for teacher in teachers]
        of_one_class(present, batch, _OTHERS)  # another strategy's memory may hold any rows
        for earlier in past:
            earlier[:, self.width :] = MASKED
            label = batch.y[:, None]
            surer = earlier.softmax(1).gather(1, label) > present.softmax(1).gather(1, label)
            present = torch.where(surer, earlier, present)
        return present

    @torch.no_grad()
    def _prune(self, learner: Learner) -> None:
        """Choose the smallest weights of each matrix until its share is pruned."""
        for name, weight in learner.parameters.items():
            if weight.ndim < 2:
                continue
            kept = self.kept.get(name, torch.ones_like(weight, dtype=torch.bool)).clone()
            lacking = int(self.prune * weight.numel()) - int((~kept).sum())
            if lacking > 0:
                size = torch.where(kept, weight.abs(), torch.inf).flatten()
                kept.view(-1)[size.topk(lacking, largest=False).indices] = False
            self.kept[name] = kept
        self._hold(learner)

    @torch.no_grad()
    def _hold(self, learner: Learner) -> None:
        if self.kept:
            # What has been frozen since, such as an earlier task's adapters, stays as it was held.
            learning = [name for name in self.kept if name in learner.parameters]
            weights: list[Tensor] = [learner.parameters[name] for name in learning]
            masks: list[Tensor] = [self.kept[name] for name in learning]
            torch._foreach_mul_(weights, masks)


def _new(batch: Batch) -> dict[str, Tensor]:
    """Take the columns of the new rows that are kept."""
    return {name: column[: batch.new] for name, column in batch.columns() if name != "weight"}


def _group(batch: Batch) -> Tensor:
    """Take the class of each new row, or its task where labels are no classes."""
    classes = batch.y.ndim == 1 and not batch.y.is_floating_point()
    return (batch.y if classes else batch.task)[: batch.new]
