"""Small learners and batches that the tests of strategies share."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lifelong import Batch, Learner, Strategy, TaskSpec
from lifelong.nets import MLP, Classifier, GrowingHead, MultiHead, TaskClassifier


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mlp() -> nn.Module:
    return MLP(3, hidden=(5,), outputs=4)


def growing() -> nn.Module:
    return Classifier(MLP(3, hidden=(5,)), GrowingHead(5))


def multi_head() -> nn.Module:
    return TaskClassifier(MLP(3, hidden=(5,)), MultiHead(5))


class Failing(Strategy):
    """Let steps fail, once everything has been looked at, while it is told to."""

    fails = True

    def penalty(self, learner, batch, output):
        if self.fails:
            raise OSError("no memory")
        return 0.0


class Headless(nn.Module):
    """A model whose last layer is neither named nor linear."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, None])[..., 0]


def learner_of(
    strategies: Sequence[Strategy] | Strategy,
    model: Callable[[], nn.Module] = mlp,
    optimizer: Callable[..., Optimizer] = SGD,
    lr: float = 0.1,
    **settings: Any,
) -> Learner:
    net = seeded(model)
    given = [strategies] if isinstance(strategies, Strategy) else list(strategies)
    return Learner(net, optimizer(net.parameters(), lr=lr), given, **settings)


def batches_of(
    count: int, rows: int = 6, *, classes: tuple[int, ...] = (0, 1, 2, 3), task: int = 0, seed=0
) -> list[Batch]:
    chance = torch.Generator().manual_seed(seed + 100 * task)
    return [
        Batch.of(
            torch.randn(rows, 3, generator=chance),
            torch.tensor(classes)[torch.randint(len(classes), (rows,), generator=chance)],
            task,
            torch.arange(rows) + rows * number + 1000 * task,
        )
        for number in range(count)
    ]


def learn(learner: Learner, task: int, batches: list[Batch], classes=()) -> None:
    learner.begin_task(TaskSpec(task, classes))
    for batch in batches:
        learner.observe(batch)
    learner.end_task(batches)


def expect_refused(learner: Learner, batch: Batch, told: str, error=ValueError) -> None:
    """A first batch is refused, and nothing has changed."""
    before = copied(learner.parameters)
    with pytest.raises(error, match=told):
        learner.observe(batch)
    assert learner.batches == learner.steps == 0
    expect_close(copied(learner.parameters), before, 0.0)


def copied(parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters.items()}


def row_gradients(learner: Learner, batches: list[Batch], value: Callable) -> list[dict]:
    """The gradient of `value(output, row)` for each row by itself, in eval mode."""
    learner.model.eval()
    found = []
    for batch in batches:
        for i in range(len(batch)):
            row = batch.rows(slice(i, i + 1))
            grads = torch.autograd.grad(
                value(learner.output(row), row), list(learner.parameters.values())
            )
            found.append(dict(zip(learner.parameters, grads, strict=True)))
    learner.model.train()
    return found


def mean_of(found: list[dict[str, Tensor]], power: int) -> dict[str, Tensor]:
    return {
        name: torch.stack([grads[name].abs() ** power for grads in found]).mean(0)
        for name in found[0]
    }


def expect_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance=1e-5) -> None:
    assert one.keys() == other.keys()
    for name in one:
        told = f"{name}: {{}}".format
        torch.testing.assert_close(
            one[name], other[name], rtol=tolerance, atol=tolerance * 0.1, msg=told
        )


class Capture(Strategy):
    """Keep the gradients, the batch and the loss term that the strategies before have made."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.batches: list[Batch] = []
        self.outputs: list[Tensor] = []

    def penalty(self, learner, batch, output):
        self.batches.append(batch)
        self.outputs.append(output.detach().clone())
        return 0.0

    def project(self, learner):
        held = {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}
        self.gradients.append(copied(held))
