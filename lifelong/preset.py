"""A learner for whoever does not want to choose: everything that would be tuned is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Adam

from lifelong.core.learner import Learner
from lifelong.core.task import Growing
from lifelong.memory import Codec
from lifelong.strategies import Steady

TRAINING: Mapping[str, Any] = {
    "optimizer": "adam",
    "lr": 2e-3,
    "momentum": 0.0,
    "weight_decay": 0.0,
}
"""How it learns, in the words of a benchmark's suite."""


def default_learner(
    model: nn.Module,
    memory: int | str = "10MB",
    *,
    store: str | Codec | None = "auto",
    **settings: Any,
) -> Learner:
    """Make a learner that needs no choice but the size of its memory.

    It is `Learner(model, Adam(model.parameters(), lr=2e-3), [Steady(memory, store=store)])`, for
    classification by any module, with tasks or without. Nothing in it is to be set for a data set:
    what was measured with it, beside methods that were tuned, is in docs/results.md.

    Args:
        model: gives (rows, classes); its head may grow.
        memory: bytes that past rows may take, such as "10MB", or how many rows.
        store: how inputs are kept: "auto" takes 2 bytes for each floating-point number and leaves
            bytes as they are. For pixels from 0 to 1 "uint8" holds twice as many rows, for features
            of about one size "int8" does.
        **settings: of `Learner`, such as `seed` or `device`.

    Raises:
        ValueError: no parameter of the model trains and nothing in it can grow, or the memory is
            no size.
        UnknownName: there is no such way to store.

    Example:
        >>> from torch import nn
        >>> default_learner(nn.Linear(4, 3), memory="1MB")
        Learner(Linear of 15 parameters, Adam, [Steady(capacity='1000000B')], tasks [], 0 steps)
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained and not any(isinstance(module, Growing) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no parameters that train; unfreeze some, or take a head "
            "that is computed: Learner(model, None, [Analytic()])"
        )
    strategies = [Steady(memory, store=store)]
    # In a group, which may be empty until the first task begins.
    optimizer = Adam([{"params": trained}], lr=TRAINING["lr"], fused=True)
    return Learner(model, optimizer, strategies, **settings)
