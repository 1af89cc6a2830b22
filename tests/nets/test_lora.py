import copy

import pytest
import torch
from adapted_models import INPUTS, SPECS, mixed, mlp, stirred, transformer
from torch import nn
from torch.optim import Adam

from lifelong import Learner
from lifelong.core import growth
from lifelong.core.errors import UnknownTask
from lifelong.nets import (
    MLP,
    Gated,
    LoRA,
    Packed,
    Supermasks,
    add_bottlenecks,
    add_lora,
    merge,
    unmerge,
)


class Conv1D(nn.Module):
    """As transformers has it for GPT-2."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


def test_it_computes_the_equation():
    torch.manual_seed(0)
    layer = stirred(LoRA(nn.Linear(4, 3), rank=2, alpha=5.0))
    x = torch.randn(6, 4)
    down, up = layer.pairs["shared"].down.weight, layer.pairs["shared"].up.weight
    whole = layer.base.weight + 5.0 / 2 * up @ down
    torch.testing.assert_close(layer(x), x @ whole.T + layer.base.bias)


@pytest.mark.parametrize("make", [mlp, transformer])
@pytest.mark.parametrize(("sets", "task"), [("shared", None), ("summed", None), ("task", 3)])
def test_merged_it_gives_the_same_and_unmerged_the_very_same(make, sets, task):
    torch.manual_seed(0)
    model = stirred(add_lora(make(), rank=2, alpha=1.0, sets=sets)).eval()
    x = INPUTS[make](5)
    named = {} if task is None else {"task": torch.full((5,), task)}
    before, state = model(x, **named), copy.deepcopy(model.state_dict())
    merge(model, task)
    torch.testing.assert_close(model(x, **named), before)
    torch.testing.assert_close(copy.deepcopy(model)(x, **named), before)
    unmerge(model)
    assert torch.equal(model(x, **named), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_layers_that_keep_inputs_first_are_adapted_and_merged():
    torch.manual_seed(0)
    model = add_lora(nn.Sequential(Conv1D(4, 3), nn.Linear(3, 2)), rank=2)
    stirred(model).eval()
    x = torch.randn(5, 4)
    before = model(x)
    merge(model)
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("add", [add_lora, add_bottlenecks])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Packed(mlp()), r"Packed computes .* first, as in Packed\(add_lora\(model\)\), or"),
        (lambda: Supermasks(mlp()), r"Supermasks computes .* Supermasks\(add_lora\(model\)\), or"),
        (lambda: nn.Sequential(Gated(MLP(6))), "Gated computes .* cannot go into it; leave one"),
    ],
)
def test_networks_that_compute_with_weights_of_the_task_are_refused_unchanged(add, make, told):
    model = make()
    before = [(name, type(m)) for name, m in model.named_modules()]
    trained = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=told):
        add(model)
    assert [(name, type(m)) for name, m in model.named_modules()] == before
    assert [p.requires_grad for p in model.parameters()] == trained


@pytest.mark.parametrize("wrap", [Packed, Supermasks])
def test_networks_of_weights_of_the_task_take_models_that_have_adapters(wrap):
    model, x = wrap(add_lora(mlp(), rank=2)), torch.randn(3, 6)
    growth.grow(model, SPECS[0])
    before = model(x)
    growth.grow(model, SPECS[1])
    torch.testing.assert_close(model(x, task=torch.zeros(3).long())[:, :2], before)


def test_merged_it_refuses_what_would_be_wrong():
    model = stirred(add_lora(mlp(), rank=2, sets="task"))
    with pytest.raises(ValueError, match="name the task"):
        merge(model)
    with pytest.raises(UnknownTask, match="task 8 has no set here"):
        merge(model, 8)
    merge(model, 0)
    with pytest.raises(ValueError, match="merged already"):
        merge(model, 0)
    x = torch.zeros(4, 6)
    with pytest.raises(ValueError, match="cannot learn"):
        model.train()(x)
    with pytest.raises(UnknownTask, match="merged with the set of task 0"):
        model.eval()(x, task=mixed(4))
    with pytest.raises(ValueError, match="unmerge\\(model\\) before saving"):
        model.state_dict()
    with pytest.raises(ValueError, match="has no LoRA"):
        merge(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"has bottlenecks, .* cannot be merged"):
        merge(add_bottlenecks(mlp()))


def test_a_merged_model_takes_no_state():
    model = stirred(add_lora(mlp(), rank=2)).eval()
    learner = Learner(model, Adam(model.parameters()))
    plain, state = copy.deepcopy(model.eval().state_dict()), learner.state_dict()
    x = torch.randn(5, 6)
    before = model(x)
    merge(model)
    for load in (lambda: model.load_state_dict(plain), lambda: learner.load_state_dict(state)):
        with pytest.raises(ValueError, match=r"the model is merged, .*unmerge\(model\)") as found:
            load()
        assert "damaged" not in str(found.value)
        torch.testing.assert_close(model(x), before)
    unmerge(model)
    model.load_state_dict(plain)
    learner.load_state_dict(state)
    assert torch.equal(model(x), before)


class Tied(nn.Module):
    """A model of language whose last layer has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer, self.out = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.out.weight = self.embedding.weight

    def forward(self, x):
        return self.out(self.layer(self.embedding(x)))


def test_a_weight_that_another_module_has_is_not_merged_into():
    model = stirred(add_lora(Tied(), rank=2, head=False)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"embedding has the very weight .*give it a copy"):
        merge(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = torch.arange(5)
    told = model(x)
    model.embedding.weight = nn.Parameter(model.embedding.weight.detach().clone())
    merge(model)
    torch.testing.assert_close(model(x), told)
    without = stirred(add_lora(Tied(), rank=2, head=False, match="layer"))
    merge(without)


def test_overlap_is_that_of_the_newest_with_all_before():
    torch.manual_seed(0)
    layer = LoRA(nn.Linear(6, 3), rank=2, sets="summed")
    assert float(layer.overlap()) == 0
    stirred(layer)
    first, second, new = (pair.down.weight for pair in layer.pairs.values())
    told = (first @ new.T).square().sum() + (second @ new.T).square().sum()
    torch.testing.assert_close(layer.overlap(), told)
    with pytest.raises(ValueError, match="only summed ones overlap"):
        LoRA(nn.Linear(6, 3), rank=2).overlap()


def test_only_linear_layers_are_taken():
    with pytest.raises(ValueError, match="not Conv2d"):
        LoRA(nn.Conv2d(1, 1, 1), rank=1)
