import math

import numpy as np
import pytest
import torch
from strategy_models import (
    Capture,
    batches_of,
    expect_close,
    growing,
    learn,
    learner_of,
)
from torch.nn import functional as F

from lifelong import EWC
from lifelong.strategies.quadratic import Quadratic, checked_strength


class Springs(Quadratic):
    """Random springs on every weight."""

    def pull(self, learner):
        chance = torch.Generator().manual_seed(5)
        for name, weight in learner.parameters.items():
            self.importance[name] = torch.rand(weight.shape, generator=chance)
            self.anchor[name] = torch.randn(weight.shape, generator=chance)


def stated_gradient(learner, springs, batch):
    """The gradient of loss + (strength / 2) * sum importance * (w - anchor)**2 by autograd."""
    loss = F.cross_entropy(learner.output(batch), batch.y)
    for name, weight in learner.parameters.items():
        square = springs.importance[name] * (weight - springs.anchor[name]) ** 2
        loss = loss + springs.strength / 2 * square.sum()
    grads = torch.autograd.grad(loss, list(learner.parameters.values()))
    return dict(zip(learner.parameters, grads, strict=True))


def test_the_gradient_is_that_of_the_stated_penalty():
    springs, seen = Springs(0.7), Capture()
    learner = learner_of([springs, seen])
    springs.pull(learner)
    for batch in batches_of(2):
        expected = stated_gradient(learner, springs, batch)
        learner.observe(batch)
        expect_close(seen.gradients[-1], expected)


def test_with_accumulated_gradients_the_penalty_is_pulled_once_a_step():
    springs, seen = Springs(0.7), Capture()
    learner = learner_of([springs, seen], accumulate=2)
    springs.pull(learner)
    halves = batches_of(2)
    expected = [stated_gradient(learner, springs, half) for half in halves]
    for half in halves:
        learner.observe(half)
    mean = {name: (grad + expected[1][name]) / 2 for name, grad in expected[0].items()}
    expect_close(seen.gradients[0], mean)


def test_weights_without_a_spring_or_a_gradient_are_left_alone():
    springs, seen = Springs(1.0), Capture()
    learner = learner_of([springs, seen], growing)
    learn(learner, 0, batches_of(1, classes=(0, 1)), (0, 1))
    springs.pull(learner)
    learner.begin_task(type(learner.tasks[0])(1, (2, 3)))
    new = [name for name in learner.parameters if name not in springs.importance]
    assert len(new) == 2
    batch = batches_of(1, task=1)[0]
    plain = torch.autograd.grad(
        F.cross_entropy(learner.output(batch), batch.y), [learner.parameters[n] for n in new]
    )
    learner.observe(batch)
    for name, expected in zip(new, plain, strict=True):
        torch.testing.assert_close(seen.gradients[-1][name], expected)


def test_strength_zero_changes_nothing():
    springs = Springs(0.0)
    pulled, plain = learner_of(springs), learner_of([])
    springs.pull(pulled)
    for batch in batches_of(3):
        assert torch.equal(pulled.observe(batch), plain.observe(batch))
    expect_close(dict(pulled.parameters), dict(plain.parameters))


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_that_is_no_strength_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        checked_strength(strength)
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        Quadratic(strength)


@pytest.mark.parametrize("strength", ["10", True, None, torch.tensor(3.0), float("nan"), -1])
def test_a_strength_is_a_number(strength):
    with pytest.raises(ValueError, match=r"strength is .*; it must be a finite number, 0 or more"):
        EWC(strength)
    assert EWC(np.float32(2)).strength == 2.0
