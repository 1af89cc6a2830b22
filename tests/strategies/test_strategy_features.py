import math

import pytest
import torch
from strategy_models import (
    Capture,
    Headless,
    batches_of,
    expect_refused,
    growing,
    learn,
    learner_of,
    multi_head,
)
from torch import nn
from torch.nn import functional as F

from lifelong import (
    MIR,
    FeatureDistillation,
    LwF,
    PooledDistillation,
    Replay,
    Strategy,
    TaskSpec,
)
from lifelong.core.features import tapped


def features(model, batch, task=None):
    with tapped(model) as tap, torch.no_grad():
        model(batch.x) if task is None else model(batch.x, task)
    return tap.features


def apart(now, then, distance):
    total = 0.0
    for a, b in zip(now, then, strict=True):
        if distance == "cosine":
            total += 1 - float(a @ b) / (max(float(a.norm()), 1e-3) * max(float(b.norm()), 1e-3))
        else:
            total += float((a - b).square().sum()) / len(a)
    return total / len(now)


@pytest.mark.parametrize("distance", ["cosine", "squared"])
@pytest.mark.parametrize("model", [growing, multi_head])
def test_the_penalty_is_the_distance_of_features_to_the_teachers(model, distance):
    own = FeatureDistillation(0.7, distance=distance)
    learner = learner_of(own, model)
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    batches = batches_of(3, classes=(2, 3), task=1)
    task = batches[0].task if model is multi_head else None
    learner.begin_task(TaskSpec(1, (2, 3)))
    then = [features(learner.model, batch, task) for batch in batches]
    for batch, taught in zip(batches, then, strict=True):
        loss = F.cross_entropy(learner.output(batch), batch.y)
        expected = float(loss.detach()) + 0.7 * apart(
            features(learner.model, batch, task), taught, distance
        )
        assert float(learner.observe(batch)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("rows", "part"), [("new", slice(6)), ("replayed", slice(6, 12))])
def test_only_the_rows_chosen_are_compared(rows, part):
    own, seen = FeatureDistillation(2.0, rows=rows), Capture()
    learner = learner_of([Replay(20), own, seen])
    learn(learner, 0, batches_of(3))
    before = learner.state_dict()["model"]
    learner.begin_task(1)
    learner.observe(batches_of(1, task=1)[0])
    batch = batches_of(1, task=1, seed=3)[0]
    now = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    loss = float(learner.observe(batch))
    whole = seen.batches[-1]
    found = {}
    for name, state in (("then", before), ("now", now)):
        learner.model.load_state_dict(state)
        found[name] = features(learner.model, whole)[part]
    expected = F.cross_entropy(seen.outputs[-1], whole.y)
    expected += 2.0 * apart(found["now"], found["then"], "cosine")
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_replayed_rows_are_none_without_a_memory():
    learner = learner_of(FeatureDistillation(5.0, rows="replayed"))
    learn(learner, 0, batches_of(2))
    batch = batches_of(1, task=1)[0]
    expected = F.cross_entropy(learner.output(batch), batch.y)
    learner.begin_task(1)
    torch.testing.assert_close(learner.observe(batch), expected.detach())


def test_features_of_zero_get_a_bounded_gradient():
    learner = learner_of(FeatureDistillation(1.0), lambda: nn.Linear(3, 4))
    learn(learner, 0, batches_of(1))
    own, now, then = FeatureDistillation(1.0), _seen(torch.zeros(2, 3)), _seen(torch.ones(2, 3))
    own._apart(now, then).backward()
    gradient = now.features.grad
    assert gradient is not None
    assert 0 < float(gradient.abs().max()) < 1e3


def _seen(value):
    from lifelong.strategies.glimpse import Glimpse

    glimpse = Glimpse()
    glimpse._features = value.requires_grad_()
    return glimpse


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))


def test_running_statistics_see_each_batch_once():
    taught, plain = learner_of(FeatureDistillation(0.0), normed), learner_of([], normed)
    for learner in (taught, plain):
        for task in range(2):
            learn(learner, task, batches_of(3, task=task))
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(taught.model.state_dict()[name], value, rtol=0, atol=0)


def test_no_hook_stays_on_the_model():
    learner = learner_of([FeatureDistillation(1.0), LwF()])
    for task in range(2):
        learn(learner, task, batches_of(2, task=task))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in learner.model.modules())


@pytest.mark.parametrize("kind", [FeatureDistillation, PooledDistillation])
def test_it_looks_at_the_real_pass_and_not_at_one_that_is_imagined(kind):
    learner = learner_of([kind(1.0), MIR(40, rows=2), seen := Capture()])
    for task in range(2):
        learn(learner, task, batches_of(3, task=task))
    assert len(seen.batches[-1]) == 8


def test_a_step_that_fails_leaves_no_hook():
    class Failing(Strategy):
        fails = False

        def extend(self, learner, batch):
            if self.fails:
                raise OSError("no memory")
            return batch

    learner = learner_of([FeatureDistillation(1.0), failing := Failing()])
    own = learner.model.register_forward_pre_hook(lambda module, inputs: None)
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    failing.fails = True
    with pytest.raises(OSError, match="no memory"):
        learner.observe(batches_of(1, task=1)[0])
    left = [m._forward_pre_hooks | m._forward_hooks for m in learner.model.modules()]
    assert [n for hooks in left for n in hooks] == [own.id]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": math.inf}, "strength is inf"),
        ({"distance": "euclid"}, "distance is 'euclid'"),
        ({"rows": "old"}, "rows is 'old'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        FeatureDistillation(**settings)


class Around(nn.Module):
    """A model whose forward does not call its head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return F.linear(x, self.head.weight, self.head.bias)


@pytest.mark.parametrize(
    ("model", "told"),
    [(Headless, "name its last layer `head`"), (Around, "the head has been given nothing")],
)
@pytest.mark.parametrize("rows", ["all", "replayed"])
def test_a_model_without_features_is_refused_in_the_first_step(model, told, rows):
    learner = learner_of(FeatureDistillation(1.0, rows=rows), model)
    expect_refused(learner, batches_of(1)[0], told)
