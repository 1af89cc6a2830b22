import pytest
import torch
from torch import nn

from lifelong.core.features import head_of
from lifelong.core.growth import grow, trainable
from lifelong.core.task import TaskSpec
from lifelong.nets import MLP, Classifier, GrowingHead, LatentModel, MultiHead, TaskClassifier


def model() -> LatentModel:
    trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    return LatentModel(trunk, Classifier(MLP(6, hidden=(5,)), GrowingHead(5)))


def test_rows_and_their_latents_have_the_same_outputs():
    net, x = model(), torch.randn(7, 4)
    grow(net, TaskSpec(0, classes=(0, 1, 2)))
    latent = net.trunk(x)
    assert torch.equal(net(x), net(latent=latent))
    assert torch.equal(net(latent=latent), net.rest(latent))


def test_the_trunk_stays_as_it_is_whatever_the_mode():
    net = model()
    grow(net, TaskSpec(0, classes=(0, 1)))
    before = {name: value.clone() for name, value in net.trunk.state_dict().items()}
    net.train()
    assert net.rest.training
    assert not any(module.training for module in net.trunk.modules())
    net(torch.randn(9, 4)).sum().backward()
    assert all(torch.equal(before[name], v) for name, v in net.trunk.state_dict().items())
    assert all(name.startswith("rest.") for name in trainable(net))
    assert head_of(net) is net.rest.head


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="wants the task"):
        LatentModel(nn.Identity(), TaskClassifier(MLP(4, hidden=(5,)), MultiHead(5)))
    for given in ({}, {"x": torch.zeros(1, 4), "latent": torch.zeros(1, 6)}):
        with pytest.raises(ValueError, match="either x or latent"):
            model()(**given)
