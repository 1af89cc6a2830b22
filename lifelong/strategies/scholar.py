"""What a model and its generator were after the last task, and how the next compares."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.features import tapped
from lifelong.core.forward import evaluating
from lifelong.core.learner import Learner
from lifelong.core.strategy import State
from lifelong.nets.generators import Fidelity, Generator, fidelity
from lifelong.strategies.apprentice import Apprentice
from lifelong.strategies.teacher import Frozen, answers, snapshot

PROBE = 1000
"""How many rows are compared at the end of a task."""


class Scholar:
    """A frozen pair: a generator of past rows, and the model that knows their labels.

    Shin et al. 2017, arXiv:1705.08690, call the pair so.

    Args:
        labels: whether the model is kept; not needed where the generator is asked for classes.

    Attributes:
        device: where it computes.
        width: how many outputs the model had.
        known: the ids of the tasks that were over.

    Example:
        >>> bool(Scholar())
        False
    """

    device: torch.device = torch.device("cpu")

    def __init__(self, labels: bool = True) -> None:
        self.labels = labels
        self.model: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.width = 0
        self.known: list[int] = []
        self._teacher = Frozen()
        self._generator: tuple[dict[str, Tensor], Generator] | None = None

    def __bool__(self) -> bool:
        """Tell whether a task has been learned."""
        return bool(self.weights)

    def become(self, learner: Learner, weights: dict[str, Tensor], some: Batch) -> None:
        """Take the model as it is, and these weights of the generator."""
        if self.labels:
            self.model = snapshot(learner.model)
        self.weights = weights
        one = some.rows(slice(1))
        self.width = learner.predict(one.x, one.task).reshape(1, -1).shape[1]
        self.known = list(dict.fromkeys(task.id for task in learner.tasks))

    def generator(self, apprentice: Apprentice) -> Generator:
        """Make the generator as it was."""
        if self._generator is None or self._generator[0] is not self.weights:
            self._generator = self.weights, apprentice.frozen(self.weights)
        return self._generator[1]

    def answers(self, learner: Learner, x: Tensor, task: Tensor) -> Tensor:
        """Compute what the model would have answered, (rows, width), as floats."""
        asked = Batch.of(x, torch.zeros(len(x), device=x.device), task)
        output = answers(learner, self._teacher.of(learner, self.model), asked)
        return output.reshape(len(x), -1)[:, : self.width].float()

    def state_dict(self) -> State:
        """Everything, by name."""
        return {
            "model": self.model,
            "weights": self.weights,
            "width": self.width,
            "known": self.known,
        }

    def load_state_dict(self, state: State) -> None:
        """Become the scholar whose state this is."""
        for name in ("model", "weights"):
            tensors = {n: t.detach().to(self.device, copy=True) for n, t in state[name].items()}
            setattr(self, name, tensors)
        self.width, self.known = state["width"], list(state["known"])


@torch.no_grad()
def compared(
    learner: Learner,
    data: Iterable[Batch],
    made: Tensor,
    before: Tensor | None,
    share: float,
) -> Fidelity:
    """Compare what a generator makes with the rows of a task and what was made before it.

    Args:
        learner: whose model's features and classes are compared.
        data: the task's rows.
        made: rows as the generator makes them now.
        before: as many rows as it made them after the last task; None in the first.
        share: of the task's rows in what the generator shall make.
    """
    count = sum(1 for _ in data)
    wanted = max(round(share * len(made)), 2)
    each = -(-wanted // count)
    parts = [batch.x[:each] for batch in data if isinstance(batch.x, Tensor)]
    given = torch.cat(parts)[:wanted]
    made = made.to(given.dtype)  # generators make float32
    if before is not None:
        given = torch.cat((given, before[: len(made) - len(given)]))
    features, labels = zip(*(_seen(learner, x) for x in (given, made)), strict=True)
    return fidelity(*features, *labels)


def _seen(learner: Learner, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute features, (rows, features), and classes, as the model sees rows of no task."""
    unknown = torch.full((len(x),), -1, device=x.device)
    with evaluating(learner.model), learner.random.kept(), tapped(learner.model) as tap:
        output = learner.output(Batch.of(x, torch.zeros(len(x), device=x.device), unknown))
    return tap.features.flatten(1), output.reshape(len(x), -1).argmax(1)
