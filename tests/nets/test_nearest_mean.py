import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lifelong import Learner, TaskSpec
from lifelong.core.growth import grow
from lifelong.nets import (
    MASKED,
    MLP,
    Classifier,
    CosineHead,
    GrowingHead,
    MultiHead,
    NearestMeanHead,
)
from lifelong.nets.nearest_mean import linear_outputs


def test_the_nearest_mean_wins_and_the_output_is_the_squared_distance():
    head = NearestMeanHead(nn.Linear(5, 4)).eval()
    means = torch.randn(4, 5)
    head.fill(means)
    x = torch.randn(7, 5)
    unit, own = F.normalize(x, dim=1), F.normalize(means, dim=1)
    expected = -torch.cdist(unit, own).square()
    torch.testing.assert_close(head(x), expected, atol=1e-5, rtol=1e-5)


def test_training_goes_through_the_logits():
    linear = nn.Linear(5, 4)
    head = NearestMeanHead(linear)
    head.fill(torch.randn(4, 5))
    x = torch.randn(3, 5)
    assert torch.equal(head(x), linear(x))
    assert torch.equal(head.eval()(x).argmax(1), torch.cdist(F.normalize(x), head.means).argmin(1))


def test_classes_without_a_mean_are_masked_and_with_none_at_all_the_logits_are_shown():
    linear = nn.Linear(2, 3)
    head = NearestMeanHead(linear).eval()
    x = torch.randn(4, 2)
    assert torch.equal(head(x), linear(x))
    head.fill(torch.tensor([[1.0, 0.0], [torch.nan, torch.nan], [0.0, 1.0]]))
    output = head(x)
    assert (output[:, 1] == MASKED).all()
    assert (output[:, [0, 2]] > MASKED).all()


def test_the_means_grow_with_the_head_and_stay():
    model = Classifier(MLP(3, hidden=(5,)), NearestMeanHead(GrowingHead(5)))
    new = grow(model, TaskSpec(0, (0, 1)))
    assert [tuple(p.shape) for p in new] == [(2, 5), (2,)]
    means = torch.randn(2, 5)
    model.head.fill(means)
    assert grow(model, TaskSpec(0, (0, 1))) == []
    grow(model, TaskSpec(1, (4,)))
    assert model.head.classes == 5
    torch.testing.assert_close(model.head.means[:2], F.normalize(means, dim=1))
    assert model.head.means[2:].isnan().all()


def test_the_state_carries_the_means_into_a_learner_that_regrows():
    def made() -> Learner:
        model = Classifier(MLP(3, hidden=(5,)), NearestMeanHead(GrowingHead(5)))
        return Learner(model, torch.optim.SGD(model.parameters(), lr=0.1))

    learner = made()
    for task, classes in enumerate(((0, 1), (2,))):
        learner.begin_task(TaskSpec(task, classes))
        learner.current = None
    learner.model.head.fill(torch.randn(3, 5))
    other = made()
    other.load_state_dict(learner.state_dict())
    x = torch.randn(6, 3)
    assert torch.equal(other.predict(x), learner.predict(x))
    assert other.predict(x).max() <= 1e-6  # distances, not logits


def test_one_graph_serves_before_and_after_the_means_come():
    head = NearestMeanHead(nn.Linear(2, 3)).eval()
    x = torch.randn(4, 2)
    program = torch.export.export(head, (x,))
    filled = copy.deepcopy(head)
    filled.fill(torch.randn(3, 2))
    exported = torch.export.export(filled, (x,))
    torch.testing.assert_close(program.module()(x), head(x))
    torch.testing.assert_close(exported.module()(x), filled(x))


def test_means_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"means of shape \(2, 2\) for a head of 3 classes"):
        NearestMeanHead(nn.Linear(2, 3)).fill(torch.zeros(2, 2))


@pytest.mark.parametrize("head", [MultiHead(4), nn.Identity()])
def test_heads_that_cannot_stand_behind_means_are_refused(head):
    with pytest.raises(ValueError, match="cannot be trained behind class means"):
        NearestMeanHead(head)


def test_the_linear_layers_of_a_head_are_found_in_order():
    head = GrowingHead(4)
    head.grow(TaskSpec(0, (0, 1)))
    head.grow(TaskSpec(1, (2, 3, 4)))
    for wrapped in (head, NearestMeanHead(head)):
        assert [layer.out_features for layer in linear_outputs(wrapped)] == [2, 3]


def test_heads_without_linear_weights_for_each_class_are_refused():
    cosine = CosineHead(4)
    cosine.grow(TaskSpec(0, (0, 1)))
    for head in (cosine, nn.Sequential(nn.Linear(4, 4), nn.ReLU()), GrowingHead(4)):
        with pytest.raises(ValueError, match="without linear weights"):
            linear_outputs(head)
