from dataclasses import replace

import pytest
import torch
from strategy_models import (
    Capture,
    Headless,
    batches_of,
    copied,
    expect_refused,
    growing,
    learn,
    learner_of,
    mlp,
    multi_head,
)
from torch.nn import functional as F

from lifelong import Batch, FeatureReplay, TaskSpec
from lifelong.core.errors import InvalidBatch, StateMismatch


def test_the_moments_are_those_of_the_features_at_the_end_of_the_task():
    replay = FeatureReplay()
    learner = learner_of(replay, growing)
    batches = batches_of(4, classes=(0, 1))
    learn(learner, 0, batches, (0, 1))
    x, y = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "y"))
    features = learner.model.embed(x).detach().double()
    for place, label in enumerate(replay.gaussians.classes):
        own = features[y == label]
        torch.testing.assert_close(replay.gaussians.means()[place], own.mean(0))
        found = replay.gaussians.covariances()[place]
        torch.testing.assert_close(found, own.T.cov(correction=0), atol=1e-8, rtol=1e-5)
    assert replay.positive


def test_the_penalty_is_the_heads_loss_each_class_weighing_alike():
    replay, seen = FeatureReplay(0.5, rows=8), Capture()
    learner = learner_of([replay, seen], growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learn(learner, 1, batches_of(2, classes=(2, 3), task=1), (2, 3))
    learner.begin_task(TaskSpec(2, (4, 5)))
    batch = batches_of(1, classes=(4, 5), task=2)[0]
    chance = torch.Generator().set_state(replay.generator.get_state())
    features, y = replay.gaussians.sample(8, chance)
    old = F.cross_entropy(learner.model.head(features.clamp_min(0)), y)
    loss = learner.observe(batch)
    new = F.cross_entropy(seen.outputs[-1], batch.y)
    torch.testing.assert_close(loss, (new + 0.5 * 4 / 2 * old).detach())


@pytest.mark.parametrize("told", [True, False])
def test_old_and_new_classes_weigh_alike_whether_or_not_tasks_name_theirs(told):
    replay, seen = FeatureReplay(rows=8), Capture()
    learner = learner_of([replay, seen], mlp)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1) if told else ())
    learner.begin_task(TaskSpec(1, (2, 3) if told else ()))
    for number, label in enumerate((2, 3, 2)):  # a class a batch: the second is one of two
        batch = batches_of(1, classes=(label,), task=1)[0]
        chance = torch.Generator().set_state(replay.generator.get_state())
        features, y = replay.gaussians.sample(8, chance)
        old = F.cross_entropy(learner.model.output(features.clamp_min(0)), y)
        loss = learner.observe(batch)
        fresh = 2 if told or number else 1
        expected = F.cross_entropy(seen.outputs[-1], batch.y) + 2 / fresh * old
        torch.testing.assert_close(loss, expected.detach())
    assert replay.fresh.nonzero().flatten().tolist() == ([] if told else [2, 3])
    twin = learner_of([FeatureReplay(rows=8), Capture()], mlp)
    twin.load_state_dict(learner.state_dict())
    assert torch.equal(twin.observe(batch), learner.observe(batch))
    learner.end_task([batch])
    assert len(replay.fresh) == 0


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("frozen", [True, False])
def test_after_the_first_task_the_backbone_stays_if_frozen(frozen, optimizer):
    learner = learner_of(FeatureReplay(frozen=frozen), growing, optimizer)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    before = copied(learner.model.backbone.state_dict())
    head = copied(learner.model.head.state_dict())
    learn(learner, 1, batches_of(2, classes=(2, 3), task=1), (2, 3))
    own = learner.model.backbone.state_dict()
    assert all(torch.equal(before[name], own[name]) for name in before) == frozen
    assert not any(torch.equal(head[n], learner.model.head.state_dict()[n]) for n in head)


def test_a_head_that_wants_the_task_is_told_that_of_the_class():
    replay = FeatureReplay(rows=8)
    learner = learner_of(replay, multi_head)
    learn(learner, 5, batches_of(2, classes=(0, 1), task=5), (0, 1))
    learn(learner, 7, batches_of(2, classes=(2, 3), task=7), (2, 3))
    assert replay.tasks == {"0": 5, "1": 5, "2": 7, "3": 7}
    chance = torch.Generator().set_state(replay.generator.get_state())
    features, y = replay.gaussians.sample(8, chance)
    logits = learner.model.head(features.clamp_min(0), 5 + 2 * (y // 2))
    learner.begin_task(TaskSpec(9, (4, 5)))
    found = replay.penalty(learner, batches_of(1, classes=(4, 5), task=9)[0], None)
    torch.testing.assert_close(found, 2 * F.cross_entropy(logits, y))


@pytest.mark.parametrize("y", [torch.zeros(2), torch.zeros(2, 2).long()])
def test_labels_that_are_no_classes_are_refused(y):
    learner = learner_of(FeatureReplay(), loss=lambda output, batch: output.sum(1))
    with pytest.raises(InvalidBatch, match="features are kept by class"):
        learner.observe(Batch.of(torch.zeros(2, 3), y))


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="rows is 0"):
        FeatureReplay(rows=0)
    with pytest.raises(ValueError, match="strength is -2"):
        FeatureReplay(-2.0)


def test_a_model_of_float64_learns_too():
    learner = learner_of(FeatureReplay(), lambda: mlp().double())
    for task in range(3):
        batches = [replace(b, x=b.x.double()) for b in batches_of(3, task=task)]
        learn(learner, task, batches)
    assert learner.steps == 9


def test_a_model_without_a_head_is_refused_in_the_first_step():
    learner = learner_of(FeatureReplay(), Headless)
    expect_refused(learner, batches_of(1)[0], "name its last layer `head`")


@pytest.mark.parametrize("fresh", [[-1], ["2"], [1.5], [2**60], 3])
def test_a_state_whose_classes_are_no_ids_is_refused(fresh):
    learner = learner_of(FeatureReplay(), mlp)
    state = learner.state_dict()
    state["strategies"][0]["state"]["fresh"] = fresh
    with pytest.raises(StateMismatch, match="the classes that have come are"):
        learner.load_state_dict(state)


def test_a_batch_of_replayed_rows_alone_is_learned_from():
    learner = learner_of(FeatureReplay(rows=8), mlp)
    learn(learner, 0, batches_of(2, classes=(0, 1)))
    learner.begin_task(1)
    assert learner.observe(replace(batches_of(1, task=1)[0], new=0)).isfinite()
