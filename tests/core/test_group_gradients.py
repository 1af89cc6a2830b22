import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lifelong import Batch, TaskSpec
from lifelong.core import group_gradients as module
from lifelong.core.errors import LabelOutsideHead
from lifelong.core.group_gradients import group_gradients
from lifelong.core.loss import cross_entropy
from lifelong.nets import MLP, MultiHead, TaskClassifier


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def normed():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def told():
    model = TaskClassifier(MLP(16, hidden=(5,)), MultiHead(5))
    model.head.grow(TaskSpec(0, (0, 1, 2)))
    return model


class Looking(MLP):
    """Looks at a value, which vmap cannot."""

    def forward(self, x):
        return super().forward(x * 2 if x.sum() > 0 else x)


MODELS = {
    "mlp": lambda: MLP(16, hidden=(5,), outputs=3),
    "convolution, norm, dropout": normed,
    "wants the task": told,
    "attention": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(16, 3)
    ),
    "no vmap": lambda: Looking(16, hidden=(5,), outputs=3),
}
SHAPES = {"convolution, norm, dropout": (1, 4, 4), "attention": (4, 4)}
WEIGHT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def rows_for(name):
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(9, *SHAPES.get(name, (16,)), generator=chance)
    return Batch.of(x, torch.randint(3, (9,), generator=chance))


def watched(monkeypatch):
    """Note whenever groups are gone through one by one."""
    looped, kept = [], module._looped
    monkeypatch.setattr(module, "_looped", lambda *given: looped.append(1) or kept(*given))
    return looped


@pytest.mark.parametrize("name", MODELS)
def test_each_group_has_the_gradient_of_its_own_mean_loss(name, monkeypatch):
    looped = watched(monkeypatch)
    model, rows = seeded(MODELS[name]), rows_for(name)
    parameters = dict(model.named_parameters())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    for _ in range(2):
        found = group_gradients(model, rows, WEIGHT, cross_entropy, parameters)
    assert len(looped) == (2 if name == "no vmap" else 0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in parameters.values())
    model.eval()
    for at, count in enumerate((3, 2, 1)):
        part = rows.rows(slice(3 * at, 3 * at + count))
        output = model(part.x, part.task) if name == "wants the task" else model(part.x)
        loss = F.cross_entropy(output, part.y)
        expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for n, truth in zip(parameters, expected, strict=True):
            truth = torch.zeros_like(parameters[n]) if truth is None else truth
            torch.testing.assert_close(found[n][at], truth, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_one_number_is_that_of_the_rows_that_count():
    model, rows = seeded(MODELS["mlp"]), rows_for("mlp")
    parameters = dict(model.named_parameters())

    def whole(output, batch):
        return F.cross_entropy(output, batch.y)

    expected = group_gradients(model, rows, WEIGHT, cross_entropy, parameters)
    found = group_gradients(model, rows, WEIGHT, whole, parameters)
    for name, truth in expected.items():
        torch.testing.assert_close(found[name], truth, rtol=1e-4, atol=1e-6)


def test_what_the_loss_does_not_reach_has_a_gradient_of_zero():
    model, rows = seeded(MODELS["mlp"]), rows_for("mlp")
    parameters = dict(model.named_parameters())
    for weight in (WEIGHT, WEIGHT[:1]):  # in one pass, and one group by itself
        part = rows.rows(slice(weight.numel()))
        found = group_gradients(model, part, weight, lambda out, b: b.x[:, 0], parameters)
        assert all(not gradients.any() for gradients in found.values())


def test_a_failure_that_passes_changes_nothing_about_the_next_call(monkeypatch):
    model, rows, looped = seeded(MODELS["mlp"]), rows_for("mlp"), watched(monkeypatch)
    parameters = dict(model.named_parameters())
    expected = group_gradients(model, rows, WEIGHT, cross_entropy, parameters)
    failures = [OSError("a moment's trouble")]

    def once(output, batch):
        if failures:
            raise failures.pop()
        return cross_entropy(output, batch)

    group_gradients(model, rows, WEIGHT, once, parameters)
    assert len(looped) == 1
    found = group_gradients(model, rows, WEIGHT, once, parameters)
    assert len(looped) == 1
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), LabelOutsideHead("no class 9")])
def test_errors_that_are_not_of_vmap_are_raised(error, monkeypatch):
    model, looped = seeded(MODELS["mlp"]), watched(monkeypatch)

    def failing(output, batch):
        raise error

    with pytest.raises(type(error)):
        group_gradients(model, rows_for("mlp"), WEIGHT, failing, dict(model.named_parameters()))
    assert looped == []
