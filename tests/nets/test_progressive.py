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

from lifelong.core.task import TaskSpec
from lifelong.nets import MLP, Pixels, Progressive, ResNet18, SmallCNN


def mlp():
    torch.manual_seed(0)
    return Progressive(MLP(6, hidden=(7, 5)))


def normed():
    torch.manual_seed(0)
    return Progressive(nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU()))


def cnn():
    torch.manual_seed(0)
    return Progressive(SmallCNN(1, 4, widths=(2,), hidden=5), Pixels(scale=1.0), adapter=3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_old_tasks_answer_the_same_bit_for_bit(optimizer):
    learner = learner_on(mlp(), optimizer=optimizer)
    told, x = answers_stay(learner)
    expect_module_alone_answers(learner, mlp(), told, x)
    expect_mixed_rows_answered(learner, told, x)


def test_norms_of_old_columns_keep_their_statistics():
    learner = learner_on(normed(), optimizer="adam")
    answers_stay(learner, tasks=3)
    modes = [m.training for m in learner.model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert modes == [False, False, True]


def test_columns_of_convolutions_read_maps_and_flattened_ones():
    learner = learner_on(cnn(), optimizer="momentum and decay")
    told, x = answers_stay(learner, tasks=3, shape=(1, 4, 4))
    expect_module_alone_answers(learner, cnn(), told, x)


def test_a_column_computes_what_the_paper_says():
    net, x = mlp().eval(), torch.randn(4, 6)
    for task in range(3):
        net.grow(TaskSpec(task, (0, 1)))
    kept = []  # what each column's layers were given
    for number, column in enumerate(net.columns):
        h, given = x, []
        for layer, stage in enumerate(column.stages):
            given.append(h)
            z = F.linear(h, stage.layer.weight, stage.layer.bias)
            if layer and number:
                a = column.adapters[layer - 1]
                lower = torch.cat([a.scale[j] * kept[j][layer] for j in range(number)], 1)
                z = z + F.linear(F.relu(F.linear(lower, a.down.weight, a.down.bias)), a.up.weight)
            h = z if layer == 2 else F.relu(z)
        kept.append(given)
        torch.testing.assert_close(net(x, torch.full((4,), number)), h)


def test_only_the_newest_column_learns_and_reads_the_old_ones():
    net = mlp()
    net.grow(TaskSpec(0, (0, 1)))
    new = net.grow(TaskSpec(1, (0, 1)))
    assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in new}
    net(torch.randn(3, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in new)
    assert all(p.grad is None for p in net.columns[0].parameters())
    assert net.grow(TaskSpec(1, (0, 1))) == []


def test_later_columns_learn_though_the_first_is_frozen():
    net = Progressive(MLP(6, hidden=(7, 5)).requires_grad_(False))
    first = net.grow(TaskSpec(0, (0, 1)))
    assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in first}
    net.grow(TaskSpec(1, (0, 1)))
    assert all(p.requires_grad for p in net.columns[1].parameters())


def test_later_columns_begin_with_the_buffers_of_the_first_as_it_was_made():
    learner = learner_on(Progressive(nn.Sequential(nn.Linear(6, 7), Scale(), nn.BatchNorm1d(7))))
    answers_stay(learner, tasks=2)
    net = learner.model
    assert float(net.columns[0].stages[0].after[0].factor) == 8.0
    net.grow(TaskSpec(2, (0, 1)))
    scale, norm = net.columns[2].stages[0].after
    assert float(scale.factor) == 3.0
    assert (norm.running_mean == 0).all()


def test_what_cannot_be_columns_is_refused():
    with pytest.raises(ValueError, match="ResNet18 is no sequence"):
        Progressive(ResNet18(width=4))
    with pytest.raises(ValueError, match="adapter is 0"):
        Progressive(MLP(4), adapter=0)
    with pytest.raises(ValueError, match="PReLU has no reset_parameters"):
        Progressive(nn.Sequential(nn.Linear(2, 2), PReLU()))
    net = mlp()
    net.grow(TaskSpec(0, (0, 1)))
    net.grow(TaskSpec(1, (0, 1)))
    with pytest.raises(ValueError, match="task 0 is frozen since task 1 began"):
        net.grow(TaskSpec(0, (0, 1)))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.full((1,), 3.0))

    def forward(self, x):
        if self.training:
            self.factor += 1
        return x * self.factor


class PReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return F.prelu(x, self.weight)
