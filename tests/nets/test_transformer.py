import pytest
import torch
from torch import nn
from torch.optim import Adam

from lifelong import Batch, Learner, TaskSpec
from lifelong.nets import Classifier, GrowingHead, Transformer


def net(**settings):
    torch.manual_seed(0)
    given = {"tokens": 20} if "inputs" not in settings else {}
    return Transformer(**given, width=8, heads=2, layers=2, length=6, **settings)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_padding_changes_nothing(pool):
    model = net(padding=0, pool=pool)
    short = torch.tensor([[3, 5, 7]])
    long = torch.tensor([[3, 5, 7, 0, 0]])
    torch.testing.assert_close(model(short), model(long))
    masked = net(pool=pool)
    mask = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(masked(short), masked(torch.tensor([[3, 5, 7, 9, 1]]), mask))


def test_a_causal_one_sees_nothing_behind_a_place():
    model, x = net(causal=True, pool="none"), torch.tensor([[1, 2, 3, 4]])
    whole = model(x)
    assert whole.shape == (1, 4, 8)
    for place in range(1, 5):
        torch.testing.assert_close(model(x[:, :place]), whole[:, :place])
    both = net(pool="none")(x)
    assert not torch.allclose(net(pool="none")(x[:, :2]), both[:, :2])
    torch.testing.assert_close(net()(x), both.mean(1))


def test_order_matters_and_rows_do_not_touch_each_other():
    model, x = net(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert not torch.allclose(model(x), model(x.flip(1)))
    torch.testing.assert_close(model(x)[1:], model(x[1:]))


def test_rows_of_padding_alone_are_finite():
    model = net(padding=0)
    features = model(torch.zeros(2, 4, dtype=torch.int64))
    assert features.isfinite().all()
    features.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_features_in_sequence_and_dicts_are_learned_from_in_bf16():
    model = nn.Module()
    model = net(inputs=4)
    learner = Learner(
        model, Adam(model.parameters(), lr=0.01), loss=nn.functional.mse_loss, precision="bf16"
    )
    x, mask = torch.randn(6, 5, 4), torch.ones(6, 5, dtype=torch.bool)
    mask[:, 3:] = False
    losses = [
        float(learner.observe(Batch.of({"x": x, "mask": mask}, torch.zeros(6, 8))))
        for _ in range(30)
    ]
    assert losses[-1] < losses[0] / 2


def test_tokens_are_learned_behind_a_growing_head():
    model = Classifier(net(padding=0), GrowingHead(8))
    learner = Learner(model, Adam(model.parameters(), lr=0.01))
    x = torch.tensor([[1, 2, 3], [4, 5, 0]])
    learner.begin_task(TaskSpec(0, (0, 1)))
    for _ in range(30):
        learner.observe(Batch.of(x, torch.tensor([0, 1])))
    assert learner.predict(x).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "tokens is None and inputs is None"),
        ({"tokens": 5, "inputs": 3}, "give one of them"),
        ({"tokens": 5, "layers": 0}, "layers is 0"),
        ({"tokens": 5, "pool": "last"}, "pool is 'last'"),
        ({"tokens": 5, "width": 6, "heads": 4}, "4 heads cannot share a width of 6"),
    ],
)
def test_wrong_sizes_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        Transformer(**settings)


def test_a_sequence_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="7 places; this Transformer takes 6"):
        net()(torch.ones(1, 7, dtype=torch.int64))
