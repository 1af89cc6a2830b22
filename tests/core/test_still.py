"""Learners without an optimizer, of models in which nothing trains."""

import pytest
import torch
from small_learners import batches, net
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from lifelong.core.errors import NonFiniteLoss, OptimizerMismatch, StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec
from lifelong.nets import MLP, Classifier, GrowingHead
from lifelong.strategies import EWC, LwF, Replay


def still(**settings):
    return Learner(net(dropout=0.0).requires_grad_(False), None, **settings)


class Watch(Strategy):
    state = ("seen",)

    def __init__(self):
        self.seen = 0

    def after_step(self, learner, batch, output):
        assert not output.requires_grad
        self.seen += batch.new


def test_batches_pass_and_strategies_see_them():
    learner = still(strategies=[Replay(16), Watch()])
    weights = [p.clone() for p in learner.model.parameters()]
    losses = [learner.observe(batch) for batch in batches(3)]
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses)
    assert learner.strategies[1].seen == 24
    assert (learner.batches, learner.steps, learner.pending) == (3, 3, 0)
    assert all(torch.equal(p, w) for p, w in zip(learner.model.parameters(), weights, strict=True))
    assert "no optimizer" in repr(learner)
    learner.consolidate(batches(1))


def test_the_state_has_no_optimizer_and_resumes():
    straight, learner = still(strategies=[Watch()]), still(strategies=[Watch()])
    for each in (straight, learner):
        for batch in batches(3):
            each.observe(batch)
    state = learner.state_dict()
    assert state["optimizer"] is None
    assert state["settings"]["optimizer"] is None
    resumed = still(strategies=[Watch()])
    resumed.load_state_dict(state)
    for each in (straight, resumed):
        each.observe(batches(4)[3])
    one, other = straight.state_dict()["model"], resumed.state_dict()["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.strategies[0].seen == 32


def test_states_of_learners_with_and_without_are_told_apart():
    model = net()
    trained = Learner(model, SGD(model.parameters(), lr=0.1))
    with pytest.raises(StateMismatch, match="optimizer='SGD', this learner has None"):
        still().load_state_dict(trained.state_dict())
    with pytest.raises(StateMismatch, match="optimizer=None, this learner has 'SGD'"):
        trained.load_state_dict(still().state_dict())
    damaged = {**still().state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    with pytest.raises(StateMismatch, match="damaged: it has an optimizer's part"):
        still().load_state_dict(damaged)


def test_a_failing_batch_changes_nothing():
    learner = still(strategies=[Watch()])
    learner.observe(batches(1)[0])
    before = learner.state_dict()["model"]
    learner._loss = lambda output, batch: output.sum(1) * torch.nan
    with pytest.raises(NonFiniteLoss):
        learner.observe(batches(2)[1])
    after = learner.state_dict()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert learner.strategies[0].seen == 8
    assert learner.batches == 1


def test_what_needs_an_optimizer_is_refused():
    with pytest.raises(
        OptimizerMismatch, match=r"no optimizer, and 0.weight, .* would never learn"
    ):
        Learner(net(), None)
    scheduler = StepLR(SGD(net().parameters(), lr=0.1), 1)
    for name, value in {
        "clip": 1.0,
        "accumulate": 2,
        "precision": "fp16",
        "scheduler": scheduler,
    }.items():
        with pytest.raises(ValueError, match=f"{name} is .*, but without an optimizer"):
            still(**{name: value})
    with pytest.raises(ValueError, match="LwF adds to the loss, from which nothing learns"):
        still(strategies=[LwF()])
    with pytest.raises(ValueError, match="EWC changes gradients, from which nothing learns"):
        still(strategies=[EWC()])
    model = net().requires_grad_(False)
    with pytest.raises(ValueError, match=r"no trainable parameters; .* or give None"):
        Learner(model, SGD(model.parameters(), lr=0.1))


def test_a_model_that_gains_parameters_is_refused_when_it_does():
    model = Classifier(MLP(6, hidden=(4,)).requires_grad_(False), GrowingHead(4))
    learner = Learner(model, None)
    with pytest.raises(OptimizerMismatch, match=r"no optimizer, and head.blocks.0.weight"):
        learner.begin_task(TaskSpec(0, (0, 1)))
    assert learner.tasks == []
