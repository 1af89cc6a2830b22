"""Small models with adapters, whose sets have been moved away from where they start."""

import torch
from torch import nn

from lifelong import TaskSpec
from lifelong.core.growth import grow
from lifelong.nets import MLP, Classifier, GrowingHead, Transformer

SPECS = [TaskSpec(0, (0, 1)), TaskSpec(3, (2, 3)), TaskSpec(1, (4,))]


def mlp():
    return Classifier(MLP(6, hidden=(7, 5)), GrowingHead(5))


def transformer():
    return Classifier(Transformer(tokens=9, width=8, heads=2, layers=1, length=8), GrowingHead(8))


INPUTS = {
    mlp: lambda rows: torch.randn(rows, 6),
    transformer: lambda rows: torch.randint(9, (rows, 4)),
}


def stirred(model: nn.Module, specs=SPECS) -> nn.Module:
    """Let it grow for tasks, and give every set other values than it starts with."""
    for spec in specs:
        grow(model, spec)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pairs" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=chance))
    return model


def mixed(rows: int) -> torch.Tensor:
    return torch.tensor([0, 3, 1, -1])[torch.arange(rows) % 4]
