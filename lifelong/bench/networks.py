"""What methods with a network of their own make of a suite's network."""

from __future__ import annotations

from torch import nn

from lifelong.nets import (
    Classifier,
    Experts,
    Gated,
    GrowingHead,
    Packed,
    Progressive,
    Supermasks,
    TaskClassifier,
    TaskHeads,
)
from lifelong.nets.experts import fitting_rank


def progressive(model: nn.Module) -> nn.Module:
    """Make a column of a model's backbone; its head gives way to the columns' own outputs.

    Example:
        >>> from lifelong.nets import MLP, GrowingHead
        >>> type(progressive(Classifier(MLP(4), GrowingHead(400)))).__name__
        'Progressive'
    """
    return Progressive(*_backbone_and_front(model))


def packed(model: nn.Module) -> nn.Module:
    """Pack a model, with outputs of its own for each task where it has a head.

    Example:
        >>> packed(nn.Linear(4, 2)).names
        ['weight']
    """
    return Packed(_with_task_heads(model))


def gated(model: nn.Module) -> nn.Module:
    """Put gates behind the layers of a model's backbone; its head gives way to one a task.

    Example:
        >>> from lifelong.nets import MLP
        >>> gated(MLP(4, hidden=(8,), outputs=2)).features
        8
    """
    return Gated(*_backbone_and_front(model))


def supermasked(model: nn.Module) -> nn.Module:
    """Fix a model at random weights of which each task learns a mask, and its own outputs.

    Example:
        >>> supermasked(nn.Linear(4, 2)).names
        ['weight']
    """
    return Supermasks(_with_task_heads(model))


def experts(model: nn.Module) -> nn.Module:
    """Make experts like a model whose inputs are counted; they are not told the task.

    Raises:
        ValueError: it is neither an `MLP` nor a sequence that begins with a linear layer, so that
            nothing says how many inputs there are.

    Example:
        >>> from lifelong.nets import MLP
        >>> experts(MLP(4, outputs=2)).limit
        10
    """
    backbone, front = _backbone_and_front(model)
    inputs = getattr(backbone, "inputs", None)
    if isinstance(backbone, nn.Sequential):
        first = next((part for part in backbone if not isinstance(part, nn.Flatten)), None)
        inputs = first.in_features if isinstance(first, nn.Linear) else None
    if not isinstance(inputs, int):
        raise ValueError(
            f"{type(backbone).__name__} does not say how many inputs it has; make the mixture "
            "yourself: lifelong.nets.Experts(model, inputs)"
        )
    if isinstance(model, TaskClassifier):
        model = Classifier(backbone, GrowingHead(features_before(model)), front)
    return Experts(model, inputs, rank=fitting_rank(inputs))


def features_before(model: nn.Module) -> int:
    """Return how many features a model's head is given; 0 where nothing says it.

    Example:
        >>> features_before(Classifier(nn.Sequential(nn.Linear(4, 3)), nn.Linear(3, 2)))
        3
    """
    head = getattr(model, "head", None)
    return int(getattr(head, "features", 0) or getattr(head, "in_features", 0))


def _backbone_and_front(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    return (model.backbone, model.front) if isinstance(model, Classifier) else (model, None)


def _with_task_heads(model: nn.Module) -> nn.Module:
    if not isinstance(model, Classifier):
        return model
    return TaskClassifier(model.backbone, TaskHeads(features_before(model)), model.front)
