import pytest
import torch
from growing_runs import (
    OPTIMIZERS,
    answers_stay,
    expect_mixed_rows_answered,
    expect_module_alone_answers,
    learner_on,
)
from torch import nn
from torch.nn import functional as F

from lifelong import HAT
from lifelong.core.task import TaskSpec
from lifelong.nets import MLP, Gated, SmallCNN


def mlp():
    torch.manual_seed(0)
    return Gated(MLP(6, hidden=(16, 12)))


def cnn():
    torch.manual_seed(0)
    return Gated(SmallCNN(1, 4, widths=(6,), hidden=10))


def begun(net, task):
    for module in (net, net.head):
        module.grow(TaskSpec(task, (0, 1)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_old_tasks_answer_the_same_bit_for_bit(optimizer):
    learner = learner_on(mlp(), [HAT(steps=5)], optimizer)
    told, x = answers_stay(learner)
    expect_module_alone_answers(learner, mlp(), told, x)
    expect_mixed_rows_answered(learner, told, x)


def normed():
    torch.manual_seed(0)
    return Gated(MLP(6, hidden=(16, 12)), nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.1)))


def test_norms_in_front_keep_the_statistics_of_the_first_task():
    learner = learner_on(normed(), [HAT(steps=5)], "momentum and decay")
    told, x = answers_stay(learner, 3)
    expect_module_alone_answers(learner, normed(), told, x)
    assert not any(module.training for module in learner.model.front.modules())
    assert float(learner.model.front[0].running_mean.abs().sum()) > 0


@pytest.mark.parametrize("optimizer", ["momentum and decay", "adamw"])
def test_channels_have_gates_too(optimizer):
    learner = learner_on(cnn(), [HAT(steps=5)], optimizer)
    told, x = answers_stay(learner, 3, (1, 4, 4))
    expect_module_alone_answers(learner, cnn(), told, x)


def test_training_gates_are_soft_and_others_hard():
    net, x = mlp(), torch.randn(5, 6)
    begun(net, 0)
    net.slope.fill_(3.0)
    soft, hard = [torch.sigmoid(3 * e) for e in net.newest], [(e > 0).float() for e in net.newest]
    for gates in (soft, hard):
        h = x
        for stage, gate in zip(net.stages, gates, strict=True):
            h = F.relu(stage.layer(h)) * gate
        torch.testing.assert_close(net(x), net.head.blocks[0](h))
        net.eval()


def test_weights_are_held_between_units_that_old_tasks_used():
    net = mlp()
    begun(net, 0)
    opened = [(e > 0) for e in net.newest]
    begun(net, 1)
    before = [net.kept[n].effective(net.stages[n].layer, pre)[0].clone() for n, pre in
              ((0, None), (1, net.kept[0].used))]  # fmt: skip
    for stage in net.stages:
        stage.layer.weight.data += 1.0
        stage.layer.bias.data += 1.0
    first, bias = net.kept[0].effective(net.stages[0].layer, None)
    second, _ = net.kept[1].effective(net.stages[1].layer, net.kept[0].used)
    assert torch.equal(first == before[0], opened[0][:, None].expand(16, 6))
    assert torch.equal(second == before[1], opened[1][:, None] & opened[0][None])
    assert torch.equal(bias != net.stages[0].layer.bias, opened[0])
    net(torch.randn(4, 6)).square().sum().backward()
    assert (net.stages[1].layer.weight.grad[opened[1][:, None] & opened[0][None]] == 0).all()


def test_usage_counts_what_old_tasks_leave_free():
    net = mlp()
    begun(net, 0)
    net.slope.fill_(2.0)
    whole = torch.cat([torch.sigmoid(2 * e) for e in net.newest])
    torch.testing.assert_close(net.usage(), whole.mean())
    free = torch.cat([e <= 0 for e in net.newest])
    begun(net, 1)
    gates = torch.cat([torch.sigmoid(2 * e) for e in net.newest])
    torch.testing.assert_close(net.usage(), gates[free].mean())


def test_backbones_whose_parts_tasks_would_share_are_refused():
    with pytest.raises(ValueError, match="BatchNorm1d would share"):
        Gated(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    grouped = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="has groups"):
        Gated(grouped)
