import pytest
import torch
from strategy_models import batches_of, learn, learner_of

from lifelong import HAT, Strategy, TaskSpec
from lifelong.nets import MLP, Gated

CLASSES = (0, 1, 2, 3)


def gated():
    return Gated(MLP(3, hidden=(8, 6)))


class Look(Strategy):
    """Note embeddings and their gradients before and behind `HAT`."""

    def __init__(self):
        self.seen = []

    def project(self, learner):
        self.seen.append([(e.detach().clone(), e.grad.clone()) for e in learner.model.newest])


def test_the_slope_rises_over_the_steps_and_begins_again():
    hat = HAT(sharpness=400.0, steps=4)
    low = 1 / 400
    assert [hat.slope(b) for b in range(5)] == pytest.approx(
        [low, low + (400 - low) / 3, low + 2 * (400 - low) / 3, 400.0, low]
    )
    learner = learner_of(HAT(steps=4), gated)
    learner.begin_task(TaskSpec(0, CLASSES))
    slopes = []
    for batch in batches_of(5):
        learner.observe(batch)
        slopes.append(float(learner.model.slope))
    assert slopes == pytest.approx([hat.slope(b) for b in range(5)])
    learner.end_task(batches_of(1))
    assert learner.strategies[0].batches == 0


def test_embedding_gradients_are_those_of_the_paper():
    """q' = q * sharpness (cosh(s e) + 1) / (s (cosh(e) + 1)), equation 6."""
    before, behind = Look(), Look()
    learner = learner_of([before, HAT(0.3, steps=3, sharpness=20.0), behind], gated)
    learner.begin_task(TaskSpec(0, CLASSES))
    for number, batch in enumerate(batches_of(3)):
        learner.observe(batch)
        s = HAT(steps=3, sharpness=20.0).slope(number)
        for (e, q), (_, made) in zip(before.seen[-1], behind.seen[-1], strict=True):
            e, q = e.double(), q.double()
            factor = 20.0 * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (s * (torch.cosh(e) + 1))
            torch.testing.assert_close(made.double(), q * factor, rtol=1e-4, atol=1e-12)
            assert (made != 0).any()


def test_the_penalty_is_the_strength_times_the_usage():
    losses = []
    for strength in (0.0, 2.0):
        learner = learner_of(HAT(strength, steps=3), gated)
        learner.begin_task(TaskSpec(0, CLASSES))
        losses.append(learner.observe(batches_of(1)[0]))
    fresh = learner_of(HAT(steps=3), gated)
    fresh.begin_task(TaskSpec(0, CLASSES))
    fresh.model.slope.fill_(1 / 400)
    torch.testing.assert_close(losses[1] - losses[0], 2 * fresh.model.usage().detach())


def test_embeddings_stay_within_their_limit():
    learner = learner_of(HAT(steps=3, limit=0.5), gated, lr=5.0)
    learn(learner, 0, batches_of(3), CLASSES)
    assert max(float(e.detach().abs().max()) for e in learner.model.newest) == 0.5


def test_batches_of_one_step_have_one_slope_and_their_gradient_is_made_up_for_by_it():
    """With another, a gradient behind a steep gate would grow 160000 times."""
    before, behind = Look(), Look()
    hat = HAT(steps=3, sharpness=20.0)
    learner = learner_of([before, hat, behind], gated, accumulate=2)
    learner.begin_task(TaskSpec(0, CLASSES))
    slopes = []
    for batch in batches_of(5):
        learner.observe(batch)
        slopes.append(float(learner.model.slope))
    assert slopes == pytest.approx([hat.slope(b) for b in (0, 0, 2, 2, 4)])
    learner.end_task(batches_of(1))  # takes the step of the fifth batch
    for s, given, made in zip(slopes[::2], before.seen, behind.seen, strict=True):
        for (e, q), (_, own) in zip(given, made, strict=True):
            factor = 20.0 * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (s * (torch.cosh(e) + 1))
            torch.testing.assert_close(own, q * factor, rtol=1e-4, atol=1e-9)


def test_the_step_that_is_left_over_keeps_within_the_limit():
    learner = learner_of(HAT(steps=100, limit=0.5), gated, lr=5.0, accumulate=2)
    learn(learner, 0, batches_of(3), CLASSES)
    assert max(float(e.detach().abs().max()) for e in learner.model.newest) == 0.5


def test_a_strong_penalty_opens_fewer_units():
    counts = []
    for strength in (0.0, 20.0):
        learner = learner_of(HAT(strength, steps=10, sharpness=50.0), gated)
        learn(learner, 0, batches_of(40), CLASSES)
        counts.append(sum(int((e > 0).sum()) for e in learner.model.newest))
    assert counts[1] < counts[0]


def test_models_without_gates_and_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="the model is MLP; make one of its backbone"):
        learn(learner_of(HAT()), 0, batches_of(1))
    for settings, told in (
        ({"strength": -1.0}, "strength is -1.0"),
        ({"sharpness": 1.0}, "sharpness is 1.0"),
        ({"steps": 1}, "steps is 1"),
        ({"limit": 0.0}, "limit is 0.0"),
    ):
        with pytest.raises(ValueError, match=told):
            HAT(**settings)
