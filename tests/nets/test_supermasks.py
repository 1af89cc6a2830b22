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
from torch import nn

from lifelong.core.task import TaskSpec
from lifelong.nets import (
    MLP,
    Classifier,
    CosineHead,
    GrowingHead,
    MultiHead,
    Supermasks,
    TaskClassifier,
    TaskHeads,
)


def shared(share=None):
    torch.manual_seed(0)
    return quick(Supermasks(MLP(6, hidden=(12,), outputs=2), share))


def quick(net):
    for number in range(len(net.names)):
        net.get_parameter(f"scores{number}").data *= 0.05  # so that a few steps change masks
    return net


def heads():
    torch.manual_seed(0)
    return Supermasks(TaskClassifier(MLP(6, hidden=(12,)), TaskHeads(12)), 0.5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("made", [shared, heads])
def test_old_tasks_answer_the_same_bit_for_bit(made, optimizer):
    learner = learner_on(made(), (), optimizer)
    told, x = answers_stay(learner, 3)
    expect_module_alone_answers(learner, made(), told, x)
    expect_mixed_rows_answered(learner, told, x)


def buffered(name):
    torch.manual_seed(0)
    return quick(Supermasks(BUFFERED[name](), 0.5))


@pytest.mark.parametrize("name", BUFFERED)
def test_buffers_that_training_moves_stay_from_the_start(name):
    learner = learner_on(buffered(name), (), "momentum and decay")
    made = dict(buffered(name).model.named_buffers())
    told, x = answers_stay(learner, 3)
    for key, value in learner.model.model.named_buffers():
        assert torch.equal(value, made[key])
    expect_module_alone_answers(learner, buffered(name), told, x)


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.InstanceNorm2d(4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
    ],
)
def test_norms_that_keep_no_statistics_may_be_in_it(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    answers_stay(learner_on(Supermasks(net, 0.5), (), "momentum and decay"), 3, (1, 4, 4))


def growing(head):
    torch.manual_seed(0)
    kind = TaskClassifier if head is MultiHead else Classifier
    return Supermasks(kind(MLP(6, hidden=(12,)), head(12)), 0.5)


@pytest.mark.parametrize("head", [GrowingHead, MultiHead, CosineHead])
def test_outputs_of_old_tasks_in_a_growing_head_do_not_learn(head):
    """Their logits move by rounding alone, as the head multiplies by more outputs at once."""
    learner = learner_on(growing(head), (), "momentum and decay")
    learn_task(learner, 0, classes=(0, 1))
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(9))
    before = learner.predict(x, 0)
    learn_task(learner, 1, classes=(2, 3))
    learn_task(learner, 2, classes=(4, 5))
    torch.testing.assert_close(learner.predict(x, 0)[:, :2], before)
    fresh = learner_on(growing(head), (), "momentum and decay")
    fresh.load_state_dict(learner.state_dict())
    assert fresh.parameters.keys() == learner.parameters.keys()
    assert sum("blocks" in name for name in fresh.parameters) == (1 if head is CosineHead else 2)
    assert torch.equal(fresh.predict(x, 0), learner.predict(x, 0))


def test_weights_are_one_number_with_a_sign_and_never_learn():
    net = shared(0.25)
    for weight in net.own():
        size = (2 / (0.25 * weight.shape[1])) ** 0.5
        torch.testing.assert_close(weight.abs(), torch.full_like(weight, size))
    assert all(not p.requires_grad for p in net.model.parameters())
    assert all(float(m.bias.abs().max()) == 0 for m in net.modules() if isinstance(m, nn.Linear))


def test_frozen_weights_are_masked_as_others_are():
    assert len(Supermasks(MLP(6, hidden=(9,), outputs=2).requires_grad_(False)).names) == 2


@pytest.mark.parametrize("share", [None, 0.3])
def test_the_largest_scores_are_used_and_get_the_gradient_of_the_mask(share):
    torch.manual_seed(0)
    net, x = Supermasks(nn.Linear(5, 4), share), torch.randn(3, 5)
    net.grow(TaskSpec(0))
    scores, weight = net.scores0, net.model.weight
    used = scores > 0 if share is None else scores >= scores.flatten().topk(6).values[-1]
    mask = used.float().requires_grad_()
    out = x @ (weight * mask).T
    torch.testing.assert_close(net(x), out)
    net(x).square().sum().backward()
    out.square().sum().backward()
    torch.testing.assert_close(scores.grad, mask.grad)


def test_senseless_shares_and_shared_statistics_are_refused():
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        Supermasks(nn.Linear(2, 2), 1.0)
    with pytest.raises(ValueError, match="share the statistics of BatchNorm1d"):
        Supermasks(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(ValueError, match=r"such as nn\.LayerNorm, or .*track_running_stats=False"):
        Supermasks(
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.InstanceNorm2d(2, track_running_stats=True))
        )
