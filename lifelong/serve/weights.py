"""A model's weights as a version keeps them, and a model made of them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn

from lifelong.core import growth
from lifelong.core.errors import StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import State
from lifelong.core.task import TaskSpec


def weights_of(learner: Learner) -> State:
    """Return all that is needed to predict; tensors are referenced.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 3)
        >>> state = weights_of(Learner(net, torch.optim.SGD(net.parameters(), lr=0.1)))
        >>> sorted(state), sorted(state["model"])
        (['model', 'tasks'], ['bias', 'weight'])
    """
    return {
        "tasks": [{"id": task.id, "classes": list(task.classes)} for task in learner.tasks],
        "model": dict(learner.model.state_dict()),
    }


def digest_of(state: State) -> str:
    """Compute the SHA-256 of what `weights_of` returned, in hexadecimal."""
    digest = hashlib.sha256(repr(state["tasks"]).encode())
    for name, tensor in state["model"].items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_of(make: Callable[[], Learner], state: State) -> nn.Module:
    """Make the model whose weights these are: built anew, grown as it had, then filled.

    Args:
        make: returns a new learner with the same architecture.
        state: what `weights_of` returned.

    Raises:
        StateMismatch: the weights are of another architecture.
    """
    learner = make()
    try:
        with learner.random:
            for task in state["tasks"]:
                growth.grow(learner.model, TaskSpec(task["id"], tuple(task["classes"])))
        learner.model.load_state_dict(state["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise StateMismatch(
            f"these weights do not fit the model that is built now: {error}; "
            "serve them with the code that made them"
        ) from error
    return learner.model
