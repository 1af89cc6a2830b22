import pytest
import torch
from torch import nn

from lifelong.core.features import head_of, tapped
from lifelong.nets import MLP, Classifier, GrowingHead


def test_a_named_head_comes_before_a_later_linear_layer():
    net = nn.Module()
    net.head, net.other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert head_of(net) is net.head


def test_the_head_of_a_classifier_is_its_own():
    head = GrowingHead(3)
    assert head_of(Classifier(MLP(4, hidden=(3,)), head)) is head


def test_features_are_what_the_head_was_given_with_their_gradient():
    net = Classifier(MLP(4, hidden=(3,)), nn.Linear(3, 2))
    x = torch.rand(5, 4)
    with tapped(net) as tap:
        net(x)
    assert torch.equal(tap.features, net.embed(x))
    assert tap.features.requires_grad


def test_no_hook_stays_behind_even_when_the_pass_fails():
    net = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(RuntimeError), tapped(net):
        net(torch.zeros(1, 3))
    assert not net[0]._forward_pre_hooks


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="name its last layer `head`"), tapped(nn.ReLU()):
        pass


def test_features_before_a_forward_pass_are_refused():
    with tapped(nn.Linear(2, 2)) as tap, pytest.raises(ValueError, match="call the model first"):
        tap.features  # noqa: B018
