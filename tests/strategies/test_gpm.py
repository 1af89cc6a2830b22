import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import Capture, batches_of, copied, growing, learn, learner_of, mlp, multi_head
from torch import nn
from torch.optim import SGD, Adam

from lifelong import EWC, GPM, Batch, Strategy
from lifelong.core.errors import NothingLeftToLearn
from lifelong.nets import MLP
from lifelong.strategies.gpm import _patches, extended_basis

CLASSES = ((0, 1), (2, 3), (0, 3))


def wide():
    return MLP(3, hidden=(12, 12), outputs=4)


def images():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 6, 2, stride=2, groups=3, bias=False), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


def rows_of(count, classes, task=0):
    chance = torch.Generator().manual_seed(task)
    few = torch.randn(3, 16, generator=chance)  # of three dimensions, so that bases have room
    x = torch.randn(count, 3, generator=chance) @ few
    return Batch.of(x, torch.tensor(classes)[torch.arange(count) % 2], task)


def whole(weights, layer):
    """A layer's weight and bias as one matrix, as its basis sees them."""
    parts = [weights[f"{layer}.weight"].flatten(1)]
    if f"{layer}.bias" in weights:
        parts.append(weights[f"{layer}.bias"][:, None])
    return torch.cat(parts, 1)


OPTIMIZERS = {
    "sgd": SGD,
    "momentum": lambda p, lr: SGD(p, lr=lr, momentum=0.9, weight_decay=0.1),
    "adam": lambda p, lr: Adam(p, lr=lr / 10),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("model", [images, growing, multi_head])
def test_every_step_is_orthogonal_to_past_inputs(model, optimizer):
    gpm, seen = GPM(0.6), Capture()
    learner = learner_of([EWC(1.0), gpm, seen], model, optimizer)
    for task, classes in enumerate(CLASSES):
        make = rows_of(12, classes, task) if model is images else None
        batches = [make] * 4 if make else batches_of(4, classes=classes, task=task)
        learner.begin_task(type("Task", (), {"id": task, "classes": classes})())
        for batch in batches:
            before = copied(learner.parameters)
            learner.observe(batch)
            after = copied(learner.parameters)
            assert all(torch.equal(before[name], after[name]) for name in gpm.still)
            assert any(not torch.equal(before[name], after[name]) for name in after)
            for layer, basis in gpm.basis.items():
                step = whole(after, layer) - whole(before, layer)
                assert (step @ basis).norm() <= 1e-5 * max(1.0, float(step.norm()))
                if f"{layer}.weight" in seen.gradients[-1]:
                    gradient = whole(seen.gradients[-1], layer)
                    assert (gradient @ basis).norm() <= 1e-5 * max(1.0, float(gradient.norm()))
        learner.end_task(batches)
        for basis in gpm.basis.values():
            square = basis.T @ basis
            torch.testing.assert_close(square, torch.eye(len(square)), rtol=0, atol=1e-5)
    assert gpm.basis.keys() >= {
        name for name, m in learner.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_past_answers_do_not_change_where_all_of_the_inputs_is_held(optimizer):
    # Old rows lie in a plane and the ReLUs of few of them: the bases leave room.
    learner = learner_of(GPM(1.0), lambda: MLP(16, hidden=(40, 40), outputs=4), optimizer)
    old = rows_of(8, (0, 1))
    learn(learner, 0, [old] * 3)
    before = learner.predict(old.x)
    weights = copied(learner.parameters)
    learn(learner, 1, [rows_of(8, (2, 3), 1)] * 10)
    torch.testing.assert_close(learner.predict(old.x), before, rtol=1e-4, atol=1e-4)
    assert any((weights[n] - p).norm() > 1e-2 for n, p in learner.parameters.items())


def test_norms_are_held_still():
    gpm, seen = GPM(0.5), Capture()
    learner = learner_of([gpm, seen], images)
    learn(learner, 0, [rows_of(12, (0, 1))] * 2)
    learner.observe(rows_of(12, (2, 3), 1))
    assert gpm.still == ["2.weight", "2.bias"]
    assert not seen.gradients[-1]["2.weight"].any()
    assert seen.gradients[0]["2.weight"].any()


def test_new_outputs_are_free_until_they_are_consolidated():
    gpm, seen = GPM(0.5), Capture()
    learner = learner_of([gpm, seen], growing)
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    assert len(gpm.basis) == 2  # the hidden layer's and the first block's
    learn(learner, 1, batches_of(1, classes=(2, 3), task=1), (2, 3))
    assert len(gpm.basis) == 3
    assert seen.gradients[-1]["head.blocks.1.weight"].any()
    assert gpm.still == []


@given(st.integers(0, 2**31), st.integers(1, 12), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_basis_holds_the_share_with_the_fewest_directions(seed, count, share):
    chance = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, 7)[:, None]
    first, second = ((torch.randn(7, count, generator=chance) * scale).double() for _ in range(2))
    old = extended_basis(first @ first.T, None, share)
    new = extended_basis(second @ second.T, old, share)
    torch.testing.assert_close(new[:, : old.shape[1]].abs(), old.abs(), rtol=0, atol=1e-5)
    torch.testing.assert_close(new.T @ new, torch.eye(new.shape[1]), rtol=0, atol=1e-5)
    held = (new.double().T @ second).square().sum() / second.square().sum()
    assert held >= share - 1e-5
    # By the singular values of what the old basis does not hold, as in the paper (equation 9).
    rest = second - old.double() @ (old.double().T @ second)
    values = torch.linalg.svdvals(rest).square() / second.square().sum()
    known = 1 - values.sum()
    added = new.shape[1] - old.shape[1]
    if added:
        assert known + values[: added - 1].sum() < share + 1e-6


def test_patches_are_what_a_convolution_multiplies():
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 5, generator=chance)
    for settings_ in (
        {}, {"padding": 1, "stride": 2}, {"padding": "same", "dilation": 2}, {"groups": 2},
        {"padding": (0, 1), "padding_mode": "reflect"}, {"padding": "valid"},
    ):  # fmt: skip
        layer = nn.Conv2d(4, 6, (3, 2), bias=False, **settings_)
        patches = _patches(layer, x)
        groups, output = layer.groups, layer(x)
        rows = patches.view(2, groups, -1, patches.shape[-1])
        weight = layer.weight.flatten(1).view(groups, 6 // groups, -1)
        made = torch.einsum("ngpi,goi->ngop", rows, weight).reshape(2, 6, -1)
        torch.testing.assert_close(made.view_as(output), output, rtol=1e-4, atol=1e-5)


def test_a_full_basis_is_seen_and_an_error_names_the_way_out():
    gpm = GPM(1.0)
    learner = learner_of(gpm, mlp)
    chance = torch.Generator().manual_seed(0)
    for task in range(2):
        x = 5 * torch.randn(60, 3, generator=chance)
        batches = [Batch.of(x, torch.arange(60) % 4, task)]
        if task == 0:
            learn(learner, task, batches)
    assert gpm.full
    learner.begin_task(1)
    before = copied(learner.parameters)
    with pytest.raises(NothingLeftToLearn, match=r"lower threshold than 1\.0"):
        learner.observe(batches[0])
    assert all(torch.equal(before[n], p) for n, p in learner.parameters.items())


def test_a_step_taken_when_a_task_ends_is_bound_too():
    gpm = GPM(0.6)
    learner = learner_of(gpm, wide, accumulate=2)
    learn(learner, 0, batches_of(4, classes=(0, 1)))
    basis = copied(gpm.basis)
    learner.begin_task(1)
    before = copied(learner.parameters)
    batches = batches_of(3, classes=(2, 3), task=1)
    for batch in batches:
        learner.observe(batch)
    learner.end_task(batches)
    assert learner.steps == 4
    for layer, held in basis.items():
        step = whole(learner.parameters, layer).detach() - whole(before, layer)
        assert step.norm() > 1e-3
        assert (step @ held).norm() <= 1e-5


def test_a_bias_that_does_not_learn_is_no_input():
    def model():
        net = mlp()
        for name, parameter in net.named_parameters():
            parameter.requires_grad_("bias" not in name)
        return net

    gpm = GPM(0.9)
    learner = learner_of(gpm, model)
    batches = batches_of(3)
    learn(learner, 0, batches)
    x = torch.cat([batch.x for batch in batches])
    first = next(iter(gpm.basis.values()))
    assert first.shape[0] == 3
    truth = torch.linalg.svd(x.T).U[:, : first.shape[1]]
    torch.testing.assert_close(first @ first.T, truth @ truth.T, rtol=1e-4, atol=1e-4)


class Tied(nn.Module):
    """Two layers with one weight, and another between them."""

    def __init__(self, one_bias=False):
        super().__init__()
        self.first, self.between, self.last = (nn.Linear(24, 24) for _ in range(3))
        self.last.weight = self.first.weight
        if one_bias:
            self.last.bias = self.first.bias

    def forward(self, x):
        return self.last(self.between(self.first(x).relu()).relu())


def plane(classes, task):
    chance = torch.Generator().manual_seed(task)
    x = torch.randn(8, 2, generator=chance) @ torch.randn(2, 24, generator=chance)
    return Batch.of(x, torch.tensor(classes)[torch.arange(8) % 2], task)


@pytest.mark.parametrize("one_bias", [False, True])
def test_a_weight_that_layers_share_is_bound_by_the_inputs_of_all_of_them(one_bias):
    moved = []
    for strategies in ([gpm := GPM(1.0)], []):
        learner = learner_of(strategies, lambda: Tied(one_bias))
        old = plane((0, 1), 0)
        learn(learner, 0, [old] * 3)
        before, weight = learner.predict(old.x), learner.model.last.weight.detach().clone()
        learn(learner, 1, [plane((2, 3), 1)] * 10)
        moved.append(float((learner.predict(old.x) - before).abs().max()))
        assert (learner.model.last.weight - weight).norm() > 1e-2
    assert len(gpm.basis["first"]) == 24 + one_bias
    assert "last" not in gpm.basis
    assert moved[0] < 1e-4
    assert moved[1] > 0.1


def test_a_weight_that_something_else_uses_too_is_held_still():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.hidden = nn.Embedding(9, 5), nn.Linear(5, 5)
            self.output = nn.Linear(5, 9)
            self.output.weight = self.words.weight

        def forward(self, x):
            return self.output(self.hidden(self.words(x)))

    learner = learner_of(gpm := GPM(0.5), Words)
    batch = Batch.of(torch.arange(6), torch.arange(6))
    learn(learner, 0, [batch])
    assert list(gpm.basis) == ["hidden"]
    assert gpm.still == ["words.weight", "output.bias"]


@pytest.mark.parametrize("frozen_first", [False, True])
def test_old_answers_stay_when_a_bias_freezes_or_learns_after_a_consolidation(frozen_first):
    learner = learner_of(gpm := GPM(1.0), lambda: MLP(16, hidden=(40, 40), outputs=4))
    layer = learner.model.layers[2]
    layer.bias.requires_grad_(not frozen_first)
    learner.grown()
    old = rows_of(8, (0, 1))
    learn(learner, 0, [old] * 3)
    assert len(gpm.basis["layers.2"]) == 41 - frozen_first
    before, weight, bias = learner.predict(old.x), layer.weight.clone(), layer.bias.clone()
    layer.bias.requires_grad_(frozen_first)
    learner.grown()
    learn(learner, 1, [rows_of(8, (2, 3), 1)] * 10)
    step = layer.weight - weight
    assert step.norm() > 1e-2
    assert torch.equal(layer.bias, bias)
    torch.testing.assert_close(learner.predict(old.x), before, rtol=1e-4, atol=1e-4)
    assert len(gpm.basis["layers.2"]) == 40 + frozen_first
    learn(learner, 2, [rows_of(8, (2, 3), 2)] * 3)
    torch.testing.assert_close(learner.predict(old.x), before, rtol=1e-4, atol=1e-4)
    basis = gpm.basis["layers.2"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-5)


def test_the_bias_of_a_layer_whose_weight_freezes_is_held():
    learner = learner_of(GPM(0.5), mlp)
    learn(learner, 0, batches_of(3))
    layer = learner.model.layers[0]
    layer.weight.requires_grad_(False)
    learner.grown()
    bias = layer.bias.clone()
    learn(learner, 1, batches_of(3, task=1))
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"rise": -0.1}, "rise is -0.1"),
        ({"rows": 0}, "rows is 0"),
    ],
)
def test_wrong_settings_are_refused(settings_, told):
    with pytest.raises(ValueError, match=told):
        GPM(**settings_)


class Failing(Strategy):
    """Fails in a step, after the gradient has been projected."""

    wanted = False

    def project(self, learner):
        if self.wanted:
            raise RuntimeError("as wanted")


def test_of_a_step_that_failed_nothing_is_left_once_a_state_is_loaded():
    def trained(seed, tasks):
        failing = Failing()
        learner = learner_of([GPM(0.8), failing], lambda: MLP(16, outputs=4), seed=seed)
        for task in range(tasks):
            learn(learner, task, [rows_of(12, CLASSES[task], task)])
        return learner, failing

    (learner, failing), (other, _) = trained(0, 1), trained(1, 2)
    failing.wanted = True
    with pytest.raises(RuntimeError, match="as wanted"):
        learner.observe(rows_of(12, (0, 1)))
    failing.wanted = False
    learner.load_state_dict(other.state_dict())
    before = copied(learner.parameters)
    learner.strategies[0].after_step(learner, rows_of(12, (0, 1)), None)  # no step was taken
    assert all(torch.equal(learner.parameters[name], before[name]) for name in before)
