import pytest
import torch
from torch import nn

from lifelong.nets import MLP, ResNet18, SmallCNN
from lifelong.nets.stages import features_of, stages_of


@pytest.mark.parametrize(
    ("backbone", "x", "units"),
    [
        (MLP(12, hidden=(5, 4)), torch.randn(3, 3, 2, 2), [5, 4]),
        (SmallCNN(1, 8, widths=(2, 3), hidden=6), torch.randn(3, 1, 8, 8), [2, 2, 3, 3, 6]),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh()), torch.randn(3, 4), [3]),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()), torch.randn(3, 1, 2, 2), [3]),
    ],
)
def test_the_stages_one_after_the_other_are_the_backbone(backbone, x, units):
    stages = stages_of(backbone)
    assert [stage.units for stage in stages] == units
    assert features_of(stages) == units[-1]
    assert torch.equal(nn.Sequential(*stages)(x), backbone(x))


@pytest.mark.parametrize(
    "odd",
    [
        ResNet18(width=4),
        nn.Sequential(),
        nn.Sequential(nn.ReLU()),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Conv2d(1, 2, 3)),
    ],
)
def test_what_is_no_sequence_of_layers_is_refused(odd):
    with pytest.raises(ValueError, match=r"is no sequence that begins with .* that as front"):
        stages_of(odd)


def test_features_that_are_maps_and_flattened_ends_are_refused():
    conv = nn.Conv2d(1, 2, 3)
    with pytest.raises(ValueError, match="the last layer is a convolution"):
        features_of(stages_of(nn.Sequential(conv, nn.ReLU())))
    with pytest.raises(ValueError, match=r"ReLU follows nn\.Flatten"):
        stages_of(nn.Sequential(conv, nn.Flatten(), nn.ReLU()))
