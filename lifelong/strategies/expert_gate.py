"""Expert Gate: a new expert learns what no present one explains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, get_args

import torch

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, NothingLeftToLearn, StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.nets.experts import Experts

Full = Literal["error", "reuse"]


class ExpertGate(Strategy):
    """Give each task to the expert that explains its first batch, or to a new one if none does.

    ratio_e = mean error of the batch under expert e / mean error of the expert's own rows
    the task goes to argmin ratio_e if that ratio <= tolerance, else to an expert without tasks
    Aljundi, Chakravarty & Tuytelaars 2017, arXiv:1611.06194.

    The model must be an `Experts` mixture, whose errors these are, and which routes rows by them
    afterwards. The paper trains a new expert for every task, and starts it from the most related
    one; here an expert goes on learning when its own inputs come again, and new ones start from
    the model as it was made. An expert that learns a second task is plain fine-tuning. Each
    consolidation within a task makes the task's rows known anew, so give it all there are.

    Args:
        tolerance: how much larger than an expert's own error that of its rows may be, above 1.
        full: what to do when all experts have tasks: "error", or "reuse" the nearest.

    Raises:
        ValueError: a tolerance that is not above 1, an unknown `full`, or a model that is not
            `Experts`.
        NothingLeftToLearn: from a task's first step, when a new expert is needed and there is none.
        InvalidBatch: inputs of several tensors.

    Example:
        >>> ExpertGate(tolerance=1.5)
        ExpertGate(tolerance=1.5)
    """

    state: ClassVar[tuple[str, ...]] = ("decided", "fitted", "before")

    def __init__(self, tolerance: float = 1.3, *, full: Full = "error") -> None:
        if not tolerance > 1:
            raise ValueError(f"tolerance is {tolerance}; it must be above 1")
        if full not in get_args(Full):
            raise ValueError(f'full is {full!r}; choose "error" or "reuse"')
        self.tolerance = tolerance
        self.full = full
        self.decided = 0
        """How many tasks have been given to an expert."""
        self.fitted = 0
        """How many tasks' inputs their experts know."""
        self.before: list[torch.Tensor] = []
        """What the newest of these experts knew before its task."""

    @torch.no_grad()
    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Decide by a task's first batch which expert learns it."""
        if self.decided != len(learner.tasks):
            net = experts(learner)
            if not isinstance(batch.x, torch.Tensor):
                raise InvalidBatch("x is a dict; experts are told apart by inputs of one tensor")
            ratios = net.errors(batch.x[: batch.new]).mean(0) / net.rest.clamp(min=1e-12)
            nearest = int(ratios.argmin())
            fresh = 1 + max(net.assigned, default=-1)
            if not ratios[nearest] <= self.tolerance:
                if fresh == net.limit and self.full == "error":
                    raise NothingLeftToLearn(
                        f"no expert explains task {learner.current} (the nearest has "
                        f"{float(ratios[nearest]):.2f} times its own error), and all {net.limit} "
                        'have tasks; make more (limit), raise the tolerance, or say full="reuse"'
                    )
                nearest = fresh if fresh < net.limit else nearest
            net.assign(nearest)
        return batch

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Note that the task has its expert."""
        del batch, output
        self.decided = len(learner.tasks)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Let the task's expert know its inputs, beside those from before the task alone."""
        net = experts(learner)
        if learner.current is None or net.assigned[-1] < 0:
            return
        expert = net.assigned[-1]
        if self.fitted != len(learner.tasks):
            self.before = net.known(expert)
            self.fitted = len(learner.tasks)
        net.fit(expert, (b.x for b in data if isinstance(b.x, torch.Tensor)), self.before)

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: it is another strategy's, or what an expert knew does not fit together.
        """
        if before := state.get("before"):
            shapes = [tuple(figures.shape) for figures in before]
            basis = shapes[1] if len(shapes) == 5 else ()
            if shapes != [basis[:1], basis, basis[1:], (), ()]:
                raise StateMismatch(
                    f"what an expert knew before its task has the shapes {shapes}, expected mean, "
                    "basis, values, rest and count of one; the state is damaged, load another"
                )
        super().load_state_dict(state)


def experts(learner: Learner) -> Experts:
    """Find the mixture of a learner.

    Raises:
        ValueError: there is none.
    """
    found = next((m for m in learner.model.modules() if isinstance(m, Experts)), None)
    if found is None:
        raise ValueError(
            f"ExpertGate needs experts, and the model is {type(learner.model).__name__}; "
            "make them of it: lifelong.nets.Experts(model, inputs)"
        )
    return found
