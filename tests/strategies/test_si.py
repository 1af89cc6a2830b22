import math

import pytest
import torch
from strategy_models import (
    batches_of,
    copied,
    expect_close,
    growing,
    learn,
    learner_of,
    mlp,
    seeded,
)
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from lifelong import SI, Strategy
from lifelong.core.errors import NonFiniteLoss


class Shake(Strategy):
    """A later strategy that changes every gradient, in place and by replacing it."""

    def project(self, learner):
        for number, parameter in enumerate(learner.parameters.values()):
            if number % 2:
                parameter.grad.mul_(-3.0)
            else:
                parameter.grad = torch.ones_like(parameter)


def by_hand(net, optimizer, batches, *, clip=None, shake=False, pull=None):
    """Train, and add up - gradient * step for each weight; the gradient is that of the loss."""
    named = dict(net.named_parameters())
    path = {name: torch.zeros_like(p) for name, p in named.items()}
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(batch.x), batch.y).backward()
        before = copied(named)
        gradient = {name: p.grad.clone() for name, p in named.items()}
        if pull is not None:
            for name, p in named.items():
                p.grad += pull(name, p.detach())
        if shake:
            for number, p in enumerate(named.values()):
                p.grad = p.grad * -3.0 if number % 2 else torch.ones_like(p)
        if clip is not None:
            nn.utils.clip_grad_norm_(named.values(), clip)
        optimizer.step()
        for name, p in named.items():
            path[name] -= gradient[name] * (p.detach() - before[name])
    return path


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("shake", [False, True])
def test_the_path_is_the_sum_of_gradient_times_step(optimizer, clip, shake):
    si = SI(0.5)
    later = [Shake()] if shake else []
    learner = learner_of([si, *later], optimizer=optimizer, lr=0.05, clip=clip)
    learner.begin_task(0)
    for batch in batches_of(5):
        learner.observe(batch)
    net = seeded(mlp)
    own = optimizer(net.parameters(), lr=0.05)
    expect_close(si.path, by_hand(net, own, batches_of(5), clip=clip, shake=shake))
    expect_close(copied(learner.parameters), copied(dict(net.named_parameters())))


def test_importance_is_the_positive_path_over_the_squared_way():
    si = SI(0.5, damping=0.02)
    learner = learner_of(si, optimizer=Adam, lr=0.05)
    net = seeded(mlp)
    own = Adam(net.parameters(), lr=0.05)
    named = dict(net.named_parameters())
    importance = {name: torch.zeros_like(p) for name, p in named.items()}
    anchor = copied(named)
    for task in range(3):
        batches, start = batches_of(4, task=task), copied(named)
        learn(learner, task, batches)
        held, where = importance, anchor

        def pull(name, weight, held=held, where=where):
            return 2 * 0.5 * held[name] * (weight - where[name])

        path = by_hand(net, own, batches, pull=pull)
        anchor = copied(named)
        importance = {
            name: importance[name]
            + path[name].clamp(min=0) / ((anchor[name] - start[name]) ** 2 + 0.02)
            for name in path
        }
        expect_close(si.importance, importance, 1e-4)
        expect_close(si.anchor, anchor, 1e-4)
    assert si.path == {}


def test_with_accumulated_gradients_the_path_advances_with_each_step():
    si, whole = SI(0.5), SI(0.5)
    halves, joined = learner_of(si, accumulate=2), learner_of(whole)
    for first, second in zip(batches_of(4)[::2], batches_of(4)[1::2], strict=True):
        halves.observe(first)
        halves.observe(second)
        both = first.extended(second)
        joined.observe(type(both).of(both.x, both.y))
    expect_close(si.path, whole.path)


def test_a_weight_that_appears_later_starts_its_path_then():
    si = SI(0.5)
    learner = learner_of(si, growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learner.begin_task(type(learner.tasks[0])(1, (2, 3)))
    born = copied(learner.parameters)
    learner.observe(batches_of(1, task=1)[0])
    new = [name for name in learner.parameters if name not in si.importance]
    assert len(new) == 2
    for name in new:
        assert torch.equal(si.start[name], born[name])
        assert torch.equal(si.latest[name], learner.parameters[name])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"damping": 0.0}, "damping is 0.0"),
        ({"damping": math.nan}, "damping is nan"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        SI(**settings)


def test_the_step_at_the_end_of_a_task_is_on_the_path():
    si, whole = SI(0.5), SI(0.5)
    third, joined = learner_of(si, accumulate=3), learner_of(whole)
    first, second = batches_of(2)
    for learner in (third, joined):
        learner.begin_task(0)
    third.observe(first)
    third.observe(second)
    both = first.extended(second)
    joined.observe(type(both).of(both.x, both.y))
    third.end_task([first])
    joined.end_task([first])
    expect_close(si.importance, whole.importance)
    assert max(value.max() for value in si.importance.values()) > 0


def test_a_model_in_bf16_keeps_a_path_in_fp32():
    si = SI(0.5)
    learner = learner_of(si, lambda: mlp().bfloat16())
    rows = [type(b).of(b.x.bfloat16(), b.y) for b in batches_of(4)]
    for task in (0, 1):
        learner.begin_task(task)
        for batch in rows:
            learner.observe(batch)
        assert {value.dtype for value in si.path.values()} == {torch.float32}
        learner.end_task(rows)
    assert {p.dtype for p in learner.parameters.values()} == {torch.bfloat16}


class Burst(Strategy):
    """Makes the gradient infinite when told to."""

    now = False

    def project(self, learner):
        if self.now:
            next(iter(learner.parameters.values())).grad.fill_(float("inf"))


def test_a_step_that_failed_is_no_part_of_the_path():
    burst, si = Burst(), SI(0.5)
    learner = learner_of([burst, si])
    batches = batches_of(4)
    learner.begin_task(0)
    learner.observe(batches[0])
    path = copied(si.path)
    burst.now = True
    with pytest.raises(NonFiniteLoss):
        learner.observe(batches[1])
    learner.end_task(batches)
    assert all(value.isfinite().all() for value in si.importance.values())
    expected = {name: value.clamp(min=0).count_nonzero() for name, value in path.items()}
    assert {name: v.count_nonzero() for name, v in si.importance.items()} == expected
