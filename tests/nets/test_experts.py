import copy

import pytest
import torch
from growing_runs import learn_task, learner_on, task_batches
from torch import nn

from lifelong import Batch, ExpertGate
from lifelong.checks.states import difference
from lifelong.core.errors import InvalidBatch, LabelOutsideHead, UnknownTask
from lifelong.core.task import TaskSpec
from lifelong.nets import (
    MASKED,
    MLP,
    Classifier,
    Experts,
    GrowingHead,
    MultiHead,
    TaskClassifier,
    TaskHeads,
    add_lora,
)


def grown(tasks=2, rank=2):
    torch.manual_seed(0)
    net = Experts(nn.Linear(5, 4), inputs=5, limit=3, rank=rank)
    for expert in net.experts:
        nn.init.normal_(expert.weight)
    for task in range(tasks):
        net.grow(TaskSpec(task, (2 * task, 2 * task + 1)))
        net.assign(task)
    return net


def rows_along(axis, count=40):
    x = 0.1 * torch.randn(count, 5)
    x[:, axis] += 3 * torch.randn(count)
    return x + axis


def test_errors_are_those_of_the_leading_directions():
    net, x, other = grown(), rows_along(0), rows_along(3)
    net.fit(0, x.split(7))
    mean, away = x.mean(0), x - x.mean(0)
    _, values, directions = torch.linalg.svd(away, full_matrices=False)
    for rows in (x, other):
        left = rows - mean
        left = left - left @ directions[:2].T @ directions[:2]
        torch.testing.assert_close(
            net.errors(rows)[:, 0], left.square().sum(1), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(net.rest[0], net.errors(x)[:, 0].mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.values[0].sort().values, (values[:2] ** 2 / 40).flip(0))
    assert net.errors(x)[:, 1:].isinf().all()


def test_rows_that_come_later_join_the_earlier_ones():
    """Exact where the directions hold all that varies."""
    both, whole = grown(rank=4), grown(rank=4)
    x, y = rows_along(0), rows_along(1, 25)
    x[:, 4], y[:, 4] = 0, 0
    both.fit(0, [x])
    both.fit(0, [y])
    whole.fit(0, [torch.cat((x, y))])
    probe = torch.randn(9, 5)
    torch.testing.assert_close(both.mean[0], whole.mean[0])
    torch.testing.assert_close(both.values[0], whole.values[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        both.errors(probe)[:, 0], whole.errors(probe)[:, 0], atol=1e-3, rtol=0
    )
    assert int(both.count[0]) == 65


def test_rows_are_answered_by_the_expert_they_resemble():
    net = grown()
    net.fit(0, [rows_along(0)])
    net.fit(1, [rows_along(3)])
    x = torch.stack(
        [part for pair in zip(rows_along(0, 6), rows_along(3, 6), strict=True) for part in pair]
    )
    output = net.eval()(x)
    for expert in (0, 1):
        own = slice(2 * expert, 2 * expert + 2)
        torch.testing.assert_close(output[expert::2, own], net.experts[expert](x)[expert::2, own])
        assert (output[expert::2, 2 - 2 * expert : 4 - 2 * expert] == MASKED).all()


def test_training_rows_go_to_the_expert_that_learns():
    net, x = grown(), rows_along(0, 6)
    net.fit(0, [x])
    output = net.train()(x)
    torch.testing.assert_close(output[:, 2:], net.experts[1](x)[:, 2:])
    output[:, 2:].sum().backward()
    assert [expert.weight.grad is not None for expert in net.experts] == [False, True, False]


def test_the_module_alone_answers_from_its_state():
    net = grown()
    net.fit(0, [rows_along(0)])
    fresh = Experts(nn.Linear(5, 4), inputs=5, limit=3, rank=2)
    for task in net.tasks:
        fresh.grow(task)
    fresh.load_state_dict(copy.deepcopy(net.state_dict()))
    x = torch.randn(4, 5)
    assert fresh.assigned == [0, 1]
    assert torch.equal(fresh.eval()(x), net.eval()(x))


@pytest.mark.parametrize("classes", [(0, 1), (2, 3)])
def test_a_task_that_begins_again_may_have_another_expert(classes):
    learner = learner_on(Experts(nn.Linear(6, 4), inputs=6, limit=3, rank=2), [ExpertGate()])
    learn_task(learner, 0)
    x = torch.cat([batch.x for batch in task_batches(0)])
    before = learner.predict(x)
    learner.begin_task(TaskSpec(0, classes))
    far = [Batch.of(b.x + 50, torch.tensor(classes)[b.y]) for b in task_batches(1)]
    for batch in far:
        learner.observe(batch)
    learner.end_task(far)
    assert learner.model.assigned == [0, 1]
    assert torch.equal(learner.predict(x), before)
    assert (learner.predict(far[0].x)[:, list(classes)] != MASKED).all()
    fresh = learner_on(Experts(nn.Linear(6, 4), inputs=6, limit=3, rank=2), [ExpertGate()])
    fresh.load_state_dict(learner.state_dict())
    assert torch.equal(fresh.predict(x), before)


def test_senseless_sizes_and_rows_before_any_task_are_refused():
    for settings, told in (
        ({"limit": 0}, "limit is 0"),
        ({"rank": 0}, "rank is 0"),
        ({}, "rank is 32 of 2 inputs, .* nothing to compare; give a rank below 2, such as rank=1"),
        ({"inputs": 20}, "give a rank below 20, such as rank=5"),
        ({"inputs": 1, "rank": 1}, "give rows of two numbers or more"),
    ):
        with pytest.raises(ValueError, match=told):
            Experts(nn.Linear(2, 2), **{"inputs": 2, **settings})
    with pytest.raises(UnknownTask, match="no task yet"):
        Experts(nn.Linear(2, 2), inputs=2, rank=1)(torch.zeros(1, 2))


def test_rows_of_another_size_are_told_so_and_change_nothing():
    net, x = grown(), torch.randn(6, 4)
    net.fit(0, [rows_along(0)])
    before = copy.deepcopy(net.state_dict())
    for call in (lambda: net.errors(x), lambda: net.fit(0, [x]), lambda: net.eval()(x)):
        with pytest.raises(InvalidBatch, match=r"rows of 4 numbers, .* apart by 5; .*inputs=4"):
            call()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def last():
    return nn.Linear(9, 4)


KNOWN = {
    "linear": lambda: nn.Linear(5, 4),
    "sequence": lambda: nn.Sequential(nn.Linear(5, 9), nn.Sequential(nn.ReLU(), last())),
    "mlp": lambda: MLP(5, hidden=(9,), outputs=4),
    "classifier": lambda: Classifier(MLP(5, hidden=(9,)), last()),
}
"""Models of four outputs whose last layer tells how many there are."""


@pytest.mark.parametrize("made", KNOWN.values(), ids=KNOWN.keys())
def test_classes_without_outputs_are_told_so_when_their_task_begins(made):
    learner = learner_on(Experts(made(), inputs=5, limit=3, rank=2), [ExpertGate()])
    before = learner.state_dict()
    with pytest.raises(LabelOutsideHead, match=r"task 1 has the classes 4, 6, .* for 0 to 3; make"):
        learner.begin_task(TaskSpec(1, (3, 4, 6)))
    with pytest.raises(ValueError, match="task 1 has class -2; class ids are 0 or more"):
        learner.begin_task(TaskSpec(1, (-2, 1)))
    assert difference(before, learner.state_dict()) is None
    learner.begin_task(TaskSpec(1, (2, 3)))
    learner.observe(Batch.of(torch.randn(8, 5), torch.arange(8) % 2 + 2))


@pytest.mark.parametrize(
    "made",
    [
        lambda: nn.Sequential(nn.Linear(5, 4), nn.LogSoftmax(1)),
        lambda: add_lora(nn.Sequential(nn.Linear(5, 4)), rank=2, head=False),
    ],
)
def test_classes_without_outputs_are_told_so_with_the_first_rows_of_models_that_do_not_say(made):
    net = Experts(made(), inputs=5, limit=3, rank=2)
    net.grow(TaskSpec(1, (3, 4, 6)))
    net.assign(0)
    with pytest.raises(LabelOutsideHead, match=r"task 1 has the classes 4, 6, .* for 0 to 3; make"):
        net(torch.randn(2, 5))
    with pytest.raises(ValueError, match="task 2 has class -2; class ids are 0 or more"):
        net.grow(TaskSpec(2, (-2, 1)))


class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.output = nn.Linear(5, 3), nn.Linear(3, 8)

    def forward(self, x):
        return self.output(self.head(x).relu())


def test_what_a_model_of_ones_own_calls_its_head_need_not_be_its_last_layer():
    Experts(HeadFirst(), inputs=5, limit=2, rank=2).grow(TaskSpec(0, (0, 7)))


def test_heads_of_experts_that_grow_are_given_what_a_task_needs():
    net = Experts(Classifier(MLP(5, hidden=(9,)), GrowingHead(9)), inputs=5, limit=2, rank=2)
    learner = learner_on(net, [ExpertGate()])
    learner.begin_task(TaskSpec(0, (0, 7)))
    assert {expert.head.classes for expert in net.experts} == {8}


def test_a_model_that_wants_the_task_is_refused():
    for head in (MultiHead, TaskHeads):
        with pytest.raises(ValueError, match="TaskClassifier wants the task, which experts are no"):
            Experts(TaskClassifier(MLP(5, hidden=(9,)), head(9)), inputs=5, rank=2)
    with pytest.raises(ValueError, match="Routed wants the task"):
        Experts(add_lora(MLP(5, hidden=(9,), outputs=4), sets="task"), inputs=5, rank=2)
