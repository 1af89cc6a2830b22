"""What methods with a network of their own make of a suite's network."""

from __future__ import annotations

from torch import nn

from lifelong.nets import Classifier, Gated, Packed, Progressive, TaskClassifier, TaskHeads


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


def _backbone_and_front(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    return (model.backbone, model.front) if isinstance(model, Classifier) else (model, None)


def _with_task_heads(model: nn.Module) -> nn.Module:
    if not isinstance(model, Classifier):
        return model
    features = int(getattr(model.head, "features", 0) or getattr(model.head, "in_features", 0))
    return TaskClassifier(model.backbone, TaskHeads(features), model.front)
