import copy

import pytest
import torch
from torch import nn

from lifelong.nets import MLP, Classifier
from lifelong.strategies.glimpse import Glimpse


def net() -> Classifier:
    return Classifier(MLP(4, hidden=(3, 3)), nn.Linear(3, 2))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_it_sees_features_and_layers_of_one_pass_and_no_more():
    model, glimpse = net(), Glimpse()
    glimpse.watch(model, ["backbone.layers.0"])
    x = torch.rand(5, 4)
    model(x)
    assert hooks(model) == 0
    model(x + 1)
    assert torch.equal(glimpse.features, model.embed(x))
    assert torch.equal(glimpse.maps["backbone.layers.0"], model.backbone.layers[0](x))
    assert glimpse.features.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_passes_in_another_mode_are_passed_over(training):
    model, glimpse = net().train(training), Glimpse()
    glimpse.watch(model, ["backbone"])
    x = torch.rand(5, 4)
    model.train(not training)(x + 1)
    assert glimpse.maps == {}
    model.train(training)(x)
    assert torch.equal(glimpse.features, model.embed(x))
    assert torch.equal(glimpse.maps["backbone"], model.backbone(x))
    assert hooks(model) == 0


def test_watching_again_after_a_pass_that_failed_leaves_one_hook_each():
    model, glimpse = net(), Glimpse()
    for _ in range(3):
        glimpse.watch(model, ["backbone"])
        with pytest.raises(ValueError, match="takes 4"):
            model(torch.rand(5, 7))
    assert hooks(model) == 2
    copy.deepcopy(model)


def test_some_rows_can_be_taken():
    model, glimpse = net(), Glimpse()
    glimpse.watch(model, ["backbone"])
    model(torch.rand(5, 4))
    taken = glimpse.rows(slice(1, 3))
    assert torch.equal(taken.features, glimpse.features[1:3])
    assert torch.equal(taken.maps["backbone"], glimpse.maps["backbone"][1:3])


def test_nothing_seen_is_said():
    with pytest.raises(ValueError, match="the head has been given nothing"):
        _ = Glimpse().features


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match=r"no module 'blocks\.1'"):
        Glimpse().watch(net(), ["blocks.1"])
