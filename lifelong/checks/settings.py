"""Where strategies are tried: small models and learners of several kinds, and a small stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lifelong.checks.states import CheckFailed
from lifelong.core.arguments import named_device
from lifelong.core.batch import Batch
from lifelong.core.learner import Learner, Precision
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec
from lifelong.nets import MLP, Classifier, GrowingHead, MultiHead, TaskClassifier, add_lora
from lifelong.strategies.replay import Replay

Make: TypeAlias = Callable[[], Strategy | Sequence[Strategy]]
"""Makes a new strategy, or a new list of strategies to be checked together, at every call."""

Event: TypeAlias = Callable[[Learner], object]
"""One call of a learner: a task begins, a batch comes, or a task ends."""

INPUTS, HIDDEN, CLASSES = 8, 16, 6


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True, slots=True)
class OnNetwork:
    """Makes strategies, and says on what network and on what device to try them.

    Attributes:
        make: makes a new strategy, or a new list of them, at every call.
        network: takes the model of a setting, of `INPUTS` inputs and `CLASSES` classes; gives the
            one to try the strategies on, if that is another.
        device: where the model is, and so all that a learner computes.
    """

    make: Make
    network: Callable[[nn.Module], nn.Module] = _as_it_is
    device: str | torch.device = "cpu"

    def __call__(self) -> Strategy | Sequence[Strategy]:
        """Make what is checked."""
        return self.make()


@dataclass(frozen=True, slots=True)
class SmallTask:
    """A task of a few batches."""

    spec: TaskSpec
    batches: list[Batch]


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of model and learner in which strategies must keep their promises."""

    name: str
    model: Callable[[], nn.Module]
    replay: bool = False
    precision: Precision = "fp32"
    accumulate: int = 1
    adam: bool = False

    def strategies(self, make: Make) -> list[Strategy]:
        """Make what is checked, followed by replay where this setting has it."""
        own = made_by(make)
        return [*own, Replay(capacity=24)] if self.replay else own

    def parts(self, make: Make, seed: int = 0) -> tuple[nn.Module, Optimizer, list[Strategy]]:
        """Make a new model, optimizer and strategies; the global random state stays."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = self.model()
            if isinstance(make, OnNetwork):
                model = make.network(model).to(make.device)
        optimizer: Optimizer
        if self.adam:
            optimizer = Adam(model.parameters(), lr=0.01)
        else:
            optimizer = SGD(model.parameters(), lr=0.02, momentum=0.5)
        return model, optimizer, self.strategies(make)

    def arguments(self) -> dict[str, Any]:
        """Name the learner's other arguments."""
        return {"precision": self.precision, "accumulate": self.accumulate}

    def learner(self, make: Make, seed: int = 0) -> Learner:
        """Make a new learner."""
        return Learner(*self.parts(make, seed), seed=seed, **self.arguments())


def plain_model() -> nn.Module:
    """Make a model of one hidden layer, with an output for each class of the small stream."""
    return MLP(INPUTS, hidden=(HIDDEN,), outputs=CLASSES)


def growing_model() -> nn.Module:
    """Make a model whose outputs come with the tasks."""
    return Classifier(MLP(INPUTS, hidden=(HIDDEN,)), GrowingHead(HIDDEN))


def task_model() -> nn.Module:
    """Make a model that wants the task, and shows the outputs of that task alone."""
    return TaskClassifier(MLP(INPUTS, hidden=(HIDDEN,)), MultiHead(HIDDEN))


def lora_model() -> nn.Module:
    """Make a model that is frozen but for LoRA and its head, to which each task adds a set."""
    return add_lora(growing_model(), rank=2, sets="summed")


def made_by(make: Make) -> list[Strategy]:
    """Make what is checked.

    Raises:
        CheckFailed: what is made is no strategy, and no list of them.
    """
    given = make.make if isinstance(make, OnNetwork) else make
    if not callable(given):
        raise CheckFailed(
            "makes_strategies",
            ALONE.name,
            f"received an instance of {type(given).__name__}",
            f"give what makes a new one at every call: lambda: {type(given).__name__}(...)",
        )
    made = make()
    parts = made if isinstance(made, list | tuple) else [made]
    for part in parts:
        if not isinstance(part, Strategy):
            raise CheckFailed(
                "makes_strategies",
                ALONE.name,
                f"what is made is of {type(part).__name__}, which is no Strategy",
                "derive its class from lifelong.Strategy, or give a list of such",
            )
    return list(parts)


def on_device(make: Make, device: str | torch.device) -> OnNetwork:
    """Let what is made be tried on a device, on the network that it is tried on anyway.

    Raises:
        ValueError: there is no such device here.

    Example:
        >>> on_device(lambda: [], "cpu").device
        device(type='cpu')
    """
    device = named_device(device, "leave it out for the CPU")
    if isinstance(make, OnNetwork):
        return replace(make, device=device)
    return OnNetwork(make, device=device)


ALONE = Setting("alone", plain_model)
GROWING = Setting("growing head", growing_model, adam=True)
SETTINGS = (
    ALONE,
    Setting("with replay", plain_model, replay=True),
    GROWING,
    Setting("task-aware model", task_model),
    Setting("with LoRA", lora_model, adam=True),
    Setting("bf16", plain_model, precision="bf16"),
    Setting("accumulating gradients", growing_model, accumulate=2),
)
"""Every kind of learner that strategies are tried in."""


def small_tasks(
    tasks: int = 3, batches: int = 4, rows: int = 8, *, seed: int = 0, first: int = 0
) -> list[SmallTask]:
    """Make tasks of two classes each; the classes come again after the third task.

    Every row has an id that no other row has (from 10**12 on), and values that no other row has.

    Args:
        tasks: how many.
        batches: in each task.
        rows: in each batch.
        seed: of the values.
        first: the id of the first task.

    Example:
        >>> task = small_tasks(1)[0]
        >>> task.spec.classes, len(task.batches), len(task.batches[0])
        ((0, 1), 4, 8)
    """
    chance = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(CLASSES, INPUTS, generator=chance)
    key = torch.arange(10**12, 10**12 + tasks * batches * rows).view(tasks, batches, rows)
    made = []
    for id in range(first, first + tasks):
        low = 2 * (id % (CLASSES // 2))
        parts = []
        for part in range(batches):
            y = low + torch.randint(2, (rows,), generator=chance)
            x = centers[y] + torch.randn(rows, INPUTS, generator=chance)
            parts.append(Batch.of(x, y, id, key[id - first, part] + first * 10**9))
        made.append(SmallTask(TaskSpec(id, (low, low + 1)), parts))
    return made


def events_of(tasks: Sequence[SmallTask]) -> list[Event]:
    """Turn tasks into the calls that a learner gets for them, in order."""
    events: list[Event] = []
    for task in tasks:
        events.append(partial(_begin, task=task.spec))
        events += [partial(_observe, batch=batch) for batch in task.batches]
        events.append(partial(_end, data=task.batches))
    return events


def play(learner: Learner, events: Sequence[Event]) -> Learner:
    """Make these calls; give the learner back."""
    for event in events:
        event(learner)
    return learner


def _begin(learner: Learner, task: TaskSpec) -> None:
    learner.begin_task(task)


def _observe(learner: Learner, batch: Batch) -> Tensor:
    return learner.observe(batch)


def _end(learner: Learner, data: list[Batch]) -> None:
    learner.end_task(data)
