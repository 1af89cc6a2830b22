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
    multi_head,
    seeded,
)
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from lifelong import EWC, Batch, Latents, Learner, Replay, Sleep, Strategy
from lifelong.core.errors import InvalidBatch, NonFiniteLoss
from lifelong.nets import LatentModel
from lifelong.strategies.teacher import softened


def test_a_sleep_is_so_many_steps_on_rows_of_the_memory_with_an_optimizer_of_its_own():
    sleep = Sleep(50, steps=4, rows=5, lr=0.2, strength=0.0)
    learner = learner_of(sleep, optimizer=Adam)
    batches = batches_of(3)
    learner.begin_task(0)
    for batch in batches:
        learner.observe(batch)
    net = type(learner.model)(3, hidden=(5,), outputs=4)
    net.load_state_dict(learner.model.state_dict())
    chance = torch.Generator()
    chance.set_state(sleep.generator.get_state())
    moments = learner.state_dict()["optimizer"]
    learner.end_task(batches)
    optimizer = SGD(net.parameters(), lr=0.2, momentum=0.9)
    for _ in range(4):
        drawn = sleep.memory.draw(5, chance)
        optimizer.zero_grad()
        F.cross_entropy(net(drawn["x"]), drawn["y"]).backward()
        optimizer.step()
    expect_close(dict(learner.model.state_dict()), dict(net.state_dict()))
    assert str(learner.state_dict()["optimizer"]) == str(moments)
    assert all(p.grad is None for p in learner.model.parameters())


def test_each_row_is_taught_by_the_model_that_is_surer_of_its_label():
    sleep = Sleep(50, steps=1, strength=1.0)
    learner = learner_of(sleep)
    batch = batches_of(1)[0]
    old, new = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    sleep.width = 4
    taught = sleep._teach(learner, [old, new], batch)
    for row in range(len(batch)):
        answers = [net(batch.x[row]).detach() for net in (old, new)]
        surest = max(answers, key=lambda answer: float(answer.softmax(0)[batch.y[row]]))
        torch.testing.assert_close(taught[row], surest)


def test_the_loss_is_that_of_labels_and_teacher():
    sleep = Sleep(50, steps=1, rows=100, lr=0.1, strength=0.6, temperature=3.0)
    learner = learner_of(sleep)
    batches = batches_of(2)
    learn(learner, 0, batches)
    net = type(learner.model)(3, hidden=(5,), outputs=4)
    for batch in batches:
        learner.observe(batch)
    awoke, asleep = dict(sleep.awoke), copied(learner.model.state_dict())
    held = sleep.memory.all()
    learner.consolidate(batches)
    rows = Batch.of(held["x"], held["y"])
    answers = []
    for weights in (awoke, asleep):
        net.load_state_dict(weights)
        answers.append(net(rows.x).detach())
    sure = [answer.softmax(1)[torch.arange(len(rows)), rows.y] for answer in answers]
    taught = torch.where((sure[0] > sure[1])[:, None], *answers)
    output = net(rows.x)  # as it fell asleep
    loss = F.cross_entropy(output, rows.y) + 0.6 * softened(output, taught, 3.0)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    for own, before, gradient in zip(
        learner.model.parameters(), net.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(own, before - 0.1 * gradient)


def test_classes_that_came_since_it_awoke_are_not_expected_of_the_old_teacher():
    sleep = Sleep(50, steps=2, rows=8)
    learner = learner_of(sleep, growing)
    for task, classes in enumerate([(0, 1), (2, 3)]):
        learn(learner, task, batches_of(3, classes=classes, task=task), classes)
        assert sleep.width == 2 * task + 2
    batch = batches_of(1, classes=(0, 1))[0]
    wide, narrow = nn.Linear(3, 4), nn.Linear(3, 4)
    with torch.no_grad():
        narrow.weight.zero_()
        narrow.bias.copy_(torch.tensor([5.0, 5.0, 9.0, 9.0]))
    sleep.width = 2
    taught = sleep._teach(learner, [narrow, wide], batch)
    old = (taught[:, :2] == 5).all(1)
    assert bool(old.any())
    assert float(taught[old].softmax(1)[:, 2:].max()) == 0.0


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_pruned_weights_are_the_smallest_and_stay_zero(share):
    sleep = Sleep(50, steps=3, prune=share)
    learner = learner_of(sleep)
    learner.begin_task(0)
    for batch in batches_of(3):
        learner.observe(batch)
    before = copied(learner.parameters)
    learner.end_task(batches_of(3))
    for name, weight in learner.parameters.items():
        if weight.ndim < 2:
            assert name not in sleep.kept
            continue
        kept, size = sleep.kept[name], before[name].abs()
        assert int((~kept).sum()) == int(share * weight.numel())
        assert float(size[~kept].max()) <= float(size[kept].min())
        assert not weight[~kept].any()
    masks = copied(sleep.kept)
    learn(learner, 1, batches_of(5, task=1))
    for name, kept in masks.items():
        assert torch.equal(sleep.kept[name], kept)
        assert not learner.parameters[name][~kept].any()


def test_momentum_does_not_move_pruned_weights():
    sleep = Sleep(50, steps=1, prune=0.5)

    def optimizer(parameters, lr):
        return SGD(parameters, lr=lr, momentum=0.9, weight_decay=0.1)

    learner = learner_of(sleep, optimizer=optimizer)
    for task in range(2):
        learner.begin_task(task)
        for batch in batches_of(4, task=task):
            learner.observe(batch)
            for name, kept in sleep.kept.items():
                assert not learner.parameters[name][~kept].any()
        learner.end_task(batches_of(4, task=task))
    assert sleep.kept


def test_another_strategys_memory_can_be_slept_on_and_is_saved_once():
    replay = Replay(30)
    sleep = Sleep(steps=5, memory=replay.memory)
    learner = learner_of([replay, sleep])
    learn(learner, 0, batches_of(3))
    assert replay.memory.seen == 18  # offered once
    assert "memory" not in sleep.state_dict()
    assert "memory" in Sleep(9).state
    other_replay = Replay(30)
    other = learner_of([other_replay, Sleep(steps=5, memory=other_replay.memory)])
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        learn(each, 1, batches_of(3, task=1))
    expect_close(dict(other.model.state_dict()), dict(learner.model.state_dict()), 0.0)


def test_a_model_that_wants_the_task_sleeps_with_it():
    sleep = Sleep(50, steps=30, rows=16, lr=0.1)
    learner = learner_of(sleep, multi_head)
    for task, classes in enumerate([(0, 1), (2, 3)]):
        learn(learner, task, batches_of(3, classes=classes, task=task), classes)
    held = sleep.memory.all()
    loss = F.cross_entropy(learner.model(held["x"], held["task"]), held["y"])
    assert float(loss.detach()) < math.log(2)


def test_no_rows_no_sleep():
    sleep = Sleep(50)
    learner = learner_of(sleep)
    before = copied(learner.parameters)
    learner.consolidate(batches_of(1))
    expect_close(copied(learner.parameters), before, 0.0)
    assert sleep.awoke == {}


class Failing(Strategy):
    def consolidate(self, learner, data):
        raise RuntimeError("no room on the disk")


@pytest.mark.parametrize(
    ("strategies", "error"),
    [
        (lambda: [Sleep(50, steps=5), Failing()], RuntimeError),
        (lambda: [Sleep(50, steps=60, lr=1e30, prune=0.5)], NonFiniteLoss),
    ],
)
def test_a_sleep_that_fails_or_is_followed_by_failure_leaves_everything_as_it_was(
    strategies, error
):
    learner = learner_of([EWC(1.0), *strategies()])
    learner.begin_task(0)
    for batch in batches_of(3):
        learner.observe(batch)
    before = learner.state_dict()
    with pytest.raises(error):
        learner.end_task(batches_of(3))
    after = learner.state_dict()
    expect_close(after["model"], before["model"], 0.0)
    for own, was in zip(after["strategies"], before["strategies"], strict=True):
        assert str(own) == str(was)
    assert learner.current == 0


def test_targets_that_are_no_classes_want_no_distillation():
    rows = [Batch.of(torch.rand(6, 3), torch.rand(6, 4), 0, torch.arange(6)) for _ in range(2)]
    learner = learner_of(Sleep(50, steps=2, strength=0.0), loss=nn.MSELoss())
    learn(learner, 0, rows)
    learner = learner_of(Sleep(50, steps=2), loss=nn.MSELoss())
    with pytest.raises(InvalidBatch, match="switch it off with strength=0"):
        learn(learner, 0, rows)


class Dict(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x)}


@pytest.mark.parametrize(
    ("model", "y", "told"),
    [
        (lambda: nn.Linear(3, 4), torch.full((6, 4), 0.25), "no class a row"),
        (lambda: nn.Linear(3, 4), torch.ones(6, 2).long(), "no class a row"),
        (lambda: nn.Linear(3, 1), torch.arange(6) % 2, "not of several classes"),
        (lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), torch.arange(6) % 2, "not of"),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2))),
            torch.ones(6),
            "no class",
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2))),
            torch.ones(6).long(),
            r"outputs of shape \(6, 2, 2\)",
        ),
        (lambda: Dict(3, 4), torch.arange(6) % 2, "outputs in a dict"),
    ],
)
def test_what_sleep_cannot_teach_is_refused_in_the_first_step(model, y, told):
    def loss(output, batch):
        output = output["logits"] if isinstance(output, dict) else output
        return output.flatten()[: len(batch)]

    sleep = Sleep(50, steps=2)
    learner = learner_of(sleep, model, loss=loss)
    before = copied(learner.parameters)
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match=told):
        learner.observe(Batch.of(torch.rand(6, 3), y, 0, torch.arange(6)))
    assert learner.batches == len(sleep.memory) == 0
    expect_close(copied(learner.parameters), before, 0.0)


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"steps": 0}])
def test_a_sleep_that_teaches_nothing_takes_any_targets(settings):
    def model():
        return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))

    learner = learner_of(Sleep(50, **{"steps": 2, **settings}), model, loss=nn.MSELoss())
    rows = [Batch.of(torch.rand(6, 3), torch.rand(6), 0, torch.arange(6)) for _ in range(2)]
    for task in range(2):
        learn(learner, task, rows)
    assert learner.steps == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"rows": 0}, "rows is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"prune": 1.0}, "prune is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        Sleep(**settings)


def test_rows_that_cannot_be_kept_are_refused_before_the_step():
    class Cast(nn.Linear):
        def forward(self, x):
            return super().forward(x.float().view(-1, 3))

    learner = learner_of(Sleep(20, steps=1), lambda: Cast(3, 4))
    learner.observe(batches_of(1)[0])
    before = learner.state_dict()
    for wrong in (torch.zeros(4, 3).double(), torch.zeros(4, 1, 3)):
        with pytest.raises(InvalidBatch, match="column 'x'"):
            learner.observe(Batch.of(wrong, torch.zeros(4).long()))
    assert str(learner.state_dict()) == str(before)


def test_latents_are_slept_on_though_it_is_first():
    make = lambda: LatentModel(nn.Linear(3, 5), nn.Linear(5, 4))  # noqa: E731
    net = seeded(make)
    rest = [p for p in net.parameters() if p.requires_grad]
    sleep = Sleep(20, steps=2)
    learner = Learner(net, torch.optim.SGD(rest, lr=0.1), [sleep, Latents()])
    learn(learner, 0, batches_of(3))
    assert sleep.memory.all()["x/latent"].shape == (18, 5)
