import pytest
import torch
from growing_runs import (
    BUFFERED,
    OPTIMIZERS,
    answers_stay,
    expect_mixed_rows_answered,
    expect_module_alone_answers,
    learn_task,
    learner_on,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lifelong import PackNet
from lifelong.core.errors import UnknownTask
from lifelong.core.task import TaskSpec
from lifelong.nets import (
    MLP,
    Classifier,
    CosineHead,
    GrowingHead,
    MultiHead,
    NearestMeanHead,
    Packed,
    SmallCNN,
    TaskClassifier,
    TaskHeads,
)


def heads():
    torch.manual_seed(0)
    return Packed(TaskClassifier(MLP(6, hidden=(9, 8)), TaskHeads(8)))


def shared():
    torch.manual_seed(0)
    return Packed(MLP(6, hidden=(12,), outputs=2))


def normed():
    torch.manual_seed(0)
    return Packed(nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2)))


def cnn():
    torch.manual_seed(0)
    return Packed(SmallCNN(1, 4, widths=(4,), hidden=8, outputs=2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("made", [heads, shared])
def test_old_tasks_answer_the_same_bit_for_bit(made, optimizer):
    learner = learner_on(made(), [PackNet(prune=0.6)], optimizer)
    told, x = answers_stay(learner)
    expect_module_alone_answers(learner, made(), told, x)
    expect_mixed_rows_answered(learner, told, x)


@pytest.mark.parametrize("head", [GrowingHead, MultiHead, CosineHead])
def test_in_heads_that_grow_wider_old_outputs_move_by_rounding_alone(head):
    torch.manual_seed(0)
    kind = TaskClassifier if head is MultiHead else Classifier
    net = Packed(kind(MLP(6, hidden=(9, 8)), head(8)))
    learner = learner_on(net, [PackNet(prune=0.5)], "momentum and decay")
    learn_task(learner, 0, classes=(0, 1))
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(9))
    before = learner.predict(x, 0)
    learn_task(learner, 1, classes=(2, 3))
    learn_task(learner, 2, classes=(4, 5))
    torch.testing.assert_close(learner.predict(x, 0)[:, :2], before)


@pytest.mark.parametrize(("made", "shape"), [(normed, (6,)), (cnn, (1, 4, 4))])
def test_norms_and_convolutions_are_packed_too(made, shape):
    learner = learner_on(made(), [PackNet(prune=0.5)], "momentum and decay")
    told, x = answers_stay(learner, 3, shape)
    expect_module_alone_answers(learner, made(), told, x)


def buffered(name):
    torch.manual_seed(0)
    return Packed(BUFFERED[name]())


@pytest.mark.parametrize("name", BUFFERED)
def test_buffers_that_training_moves_stay_after_the_first_task(name):
    learner = learner_on(buffered(name), [PackNet(prune=0.5)], "momentum and decay")
    told, x = answers_stay(learner, 3)
    expect_module_alone_answers(learner, buffered(name), told, x)
    first = learner_on(buffered(name), [PackNet(prune=0.5)], "momentum and decay")
    learn_task(first, 0)
    made = dict(buffered(name).model.named_buffers())
    for key, value in learner.model.model.named_buffers():
        assert torch.equal(value, first.model.model.get_buffer(key))
        assert not torch.equal(value, made[key])  # the first task has moved it


def test_a_head_that_trains_otherwise_than_it_tells_goes_on_training():
    head = NearestMeanHead(GrowingHead(8))
    net = Packed(Classifier(MLP(6, hidden=(9, 8)), head))
    for task in range(2):
        for module in (net, head):
            module.grow(TaskSpec(task, (2 * task, 2 * task + 1)))
    assert head.train().training
    assert net.train().model.head.training


@given(shares=st.lists(st.floats(0, 0.95), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_no_weight_has_two_owners_and_each_task_keeps_its_largest(shares, seed):
    torch.manual_seed(seed)
    net = Packed(nn.Linear(5, 7))
    taken = torch.zeros(7, 5, dtype=torch.bool)
    for task, share in enumerate(shares):
        net.grow(TaskSpec(task))
        own = net.owner0 == task + 1
        assert torch.equal(own, ~taken)  # all that was free, and nothing else
        weight = net.model.weight.data.copy_(torch.randn(7, 5))
        net.prune(share)
        kept = net.owner0 == task + 1
        assert int(kept.sum()) == int(own.sum()) - round(share * int(own.sum()))
        freed = own & ~kept
        if kept.any() and freed.any():
            assert weight[kept].abs().min() >= weight[freed].abs().max()
        assert torch.equal(net.weights(task)["weight"] != 0, kept | taken)
        taken |= kept
        if not net.free:
            break
    assert net.free == int((~taken).sum())


def test_only_owned_weights_get_a_gradient():
    net = shared()
    net.grow(TaskSpec(0))
    net.prune(0.5)
    net(torch.randn(4, 6)).square().sum().backward()
    weight = net.model.layers[0].weight
    assert (weight.grad[net.owner0 == 0] == 0).all()
    assert (weight.grad[net.owner0 == 1] != 0).any()


def test_units_that_no_task_has_used_learn_in_a_later_one():
    net = shared()
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.zero_()
    net.grow(TaskSpec(0))
    net.prune(1.0)
    net.grow(TaskSpec(1))
    x, y = torch.randn(8, 6), torch.arange(8) % 2
    nn.functional.cross_entropy(net(x), y).backward()
    first = next(net.model.parameters())
    assert first.grad is not None
    assert (first.grad.abs().sum(1) > 0).sum() > 6
    assert first.abs().max() <= 6**-0.5  # as torch draws a layer of six inputs


def test_what_is_not_packed_learns_from_the_first_task_alone():
    net = heads()
    for task in range(2):
        for module in (net, net.model.head):
            module.grow(TaskSpec(task, (0, 1)))
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    assert learning == [
        "model.backbone.layers.0.weight",
        "model.backbone.layers.2.weight",
        "model.head.blocks.1.weight",
        "model.head.blocks.1.bias",
    ]


def test_frozen_weights_are_left_as_they_are():
    backbone = MLP(6, hidden=(9, 8)).requires_grad_(False)
    backbone.layers[2].requires_grad_(True)
    weight = backbone.layers[0].weight.clone()
    net = Packed(TaskClassifier(backbone, TaskHeads(8)))
    answers_stay(learner_on(net, [PackNet(prune=0.5)], "momentum and decay"), 3)
    assert net.names == ["backbone.layers.2.weight"]
    assert torch.equal(backbone.layers[0].weight, weight)
    assert not backbone.layers[0].weight.requires_grad
    with pytest.raises(ValueError, match=r"are frozen \(layers\.0\.weight.*unfreeze some"):
        Packed(MLP(6, outputs=2).requires_grad_(False))


def test_inputs_of_several_tensors_are_parted_by_task_as_well():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1, bias=False)

        def forward(self, a, b):
            return self.layer(a + b)

    torch.manual_seed(0)
    net = Packed(Sum())
    net.grow(TaskSpec(0))
    net.prune(0.5)
    net.grow(TaskSpec(1))
    a, b, task = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        net.model.layer.weight.normal_()
    found = net(a=a, b=b, task=task)
    for place in (0, 1):
        own = (a + b) @ net.weights(place)["layer.weight"].T
        torch.testing.assert_close(found[task == place], own[task == place])
    assert net.head is net.model.layer


def test_models_without_layers_and_tasks_beyond_a_byte_are_refused():
    with pytest.raises(ValueError, match=r"ReLU has no nn\.Linear"):
        Packed(nn.ReLU())
    net = Packed(nn.Linear(2, 1))
    with pytest.raises(UnknownTask, match="no task yet"):
        net(torch.zeros(1, 2))
    for task in range(255):
        net.grow(TaskSpec(task))
    with pytest.raises(ValueError, match="holds 255 tasks"):
        net.grow(TaskSpec(255))
    assert len(net.ids) == 255
