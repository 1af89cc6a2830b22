"""A strategy whose strength adapts: by a schedule, by feedback, or by both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.strategies.feedback import Feedback
from lifelong.strategies.held_out import check_held
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.schedules import Progress, Schedule


class Adaptive(Strategy):
    """Let another strategy act with a strength that changes as learning goes on.

    strength = that strategy's own * schedule(progress) * feedback.factor

    The strategy acts at the moments at which it does alone, and with a factor of 1 does exactly
    the same. Its strength is set before each of its acts; all state is its own and the feedback's.

    With feedback, a share of the new rows is held out of learning. Put this first in the list
    then: strategies before it would see those rows, and `Feedback.withhold` refuses to take them
    from a batch to which rows have been appended.

    Args:
        inner: any strategy with an attribute `strength`.
        schedule: such as `Rising()`, `PerTask()`, `ClassRatio()`, or any function of a `Progress`.
        feedback: such as `Feedback(max_forgetting=0.02)`.

    Raises:
        ValueError: the strategy has no strength, or neither of the two is given; while learning,
            a schedule gives no finite number of 0 or more.

    Example:
        >>> from lifelong.strategies import EWC, Rising
        >>> Adaptive(EWC(strength=10.0), schedule=Rising(over=500)).base
        10.0
    """

    state = ("kind", "inner", "feedback", "done", "since")

    def __init__(
        self,
        inner: Strategy,
        *,
        schedule: Schedule | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        base = getattr(inner, "strength", None)
        if not isinstance(base, float):
            raise ValueError(f"{type(inner).__name__} has no strength that could adapt")
        if schedule is None and feedback is None:
            raise ValueError("neither a schedule nor feedback; give one, such as schedule=Rising()")
        self.inner: Any = inner
        self.kind = type(inner).__name__
        self.row_losses = inner.row_losses
        self.base = base
        """The strength at a factor of 1."""
        self.schedule = schedule
        self.feedback = feedback
        self.done = 0
        """How often it has consolidated."""
        self.since = 0
        """The step at which it last has."""
        self._held: Batch | None = None

    def acts(self, moment: str) -> bool:
        """Tell whether the inner strategy acts there, or this has something to do itself."""
        more = {"extend", "penalty", "after_step"} if self.feedback else set()
        own = {"consolidate"} | more
        return moment in own or self.inner.acts(moment)

    def attach(self, device: torch.device, seed: int) -> None:
        """Tie both to one learner, with one generator, which a failed step then sets back."""
        super().attach(device, seed)
        self.inner.attach(device, seed)
        self.generator = self.inner.generator

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: it is of another strategy, or of one with feedback where this has none.
        """
        for name, own in (("kind", self.kind), ("feedback", self.feedback)):
            other = state.get(name)
            if (other is None) != (own is None) or (name == "kind" and other != own):
                raise StateMismatch(
                    f"{name} is {other!r:.40} in the state of Adaptive, here {own!r:.40}; make it "
                    "with the same strategy, and with feedback where the saved one had it"
                )
        super().load_state_dict(state)

    def strength(self, learner: Learner) -> float:
        """Compute the strength that the inner strategy has now."""
        factor = 1.0 if self.feedback is None else self.feedback.factor
        if self.schedule is not None:
            factor *= self.schedule(self.progress(learner))
        return checked_strength(self.base * factor)

    def progress(self, learner: Learner) -> Progress:
        """Tell how far learning has come."""
        tasks = learner.tasks
        present = set(tasks[-1].classes) if tasks else set()
        old = set().union(*(task.classes for task in tasks[:-1]))
        return Progress(self.done, learner.steps - self.since, len(old), len(present - old))

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Hold rows out, and let the inner strategy extend the rest."""
        self._held = None
        if self.feedback is not None:
            batch, self._held = self.feedback.withhold(batch)
        extended: Batch = self._set(learner).extend(learner, batch)
        return extended

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Give the inner strategy's penalty."""
        check_held(self._held, output)
        term: Tensor | float = self._set(learner).penalty(learner, batch, output)
        return term

    def project(self, learner: Learner) -> bool | None:
        """Let the inner strategy change the gradients."""
        finite: bool | None = self._set(learner).project(learner)
        return finite

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Let the inner strategy look at the step; keep what was held out, and measure."""
        if self.inner.acts("after_step"):
            self._set(learner).after_step(learner, batch, output)
        if self.feedback is not None:
            held, self._held = self._held, None
            self.feedback.saw(batch)
            if held is not None:
                self.feedback.keep(held, self.done, self.generator)
            self.feedback.watch(learner, self.done)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Measure how the period ended, and let the inner strategy consolidate."""
        if self.feedback is not None:
            self.feedback.close(learner, self.done)
        if self.inner.acts("consolidate"):
            self._set(learner).consolidate(learner, data)
        self.done += 1
        self.since = learner.steps

    def unlearn(self, learner: Learner, keys: Tensor) -> None:
        """Let the inner strategy take back what rows have taught."""
        self.inner.unlearn(learner, keys)

    def forget(self, keys: Tensor) -> int:
        """Erase rows from whatever the inner strategy and the feedback keep, and count them."""
        self._held = None  # of a step that failed
        rows = self.inner.forget(keys) or 0
        return rows if self.feedback is None else rows + self.feedback.forget(keys)

    def _set(self, learner: Learner) -> Strategy:
        self.inner.strength = self.strength(learner)
        inner: Strategy = self.inner
        return inner
