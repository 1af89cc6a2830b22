"""Learning from a memory alone, between tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import SGD

from lifelong.core.batch import batch_of_columns
from lifelong.core.errors import NonFiniteLoss
from lifelong.core.learner import Learner
from lifelong.memory import Memory


def tune(
    learner: Learner,
    memory: Memory,
    generator: torch.Generator,
    *,
    epochs: int,
    batch: int,
    rate: Callable[[float], float],
    momentum: float = 0.9,
) -> None:
    """Train the model on the rows of a memory, by SGD of its own and in full precision.

    The learner's optimizer is not asked, and its moments stay as they are.

    Args:
        learner: whose model and row loss are used.
        memory: all of its rows are seen once in each epoch, in random order; if there are none,
            the model is left as it is.
        generator: all chance comes from it.
        epochs: how many.
        batch: rows a step; a single row that is left at the end joins the step before, as norms
            have no statistics of one; for a step of one they take their running statistics, but
            for maps, of whose places they have some.
        rate: the learning rate, of the progress from 0 to 1.
        momentum: of SGD.

    Raises:
        NonFiniteLoss: training diverged.
    """
    if len(memory) == 0:
        return
    optimizer = SGD(learner.parameters.values(), lr=rate(0.0), momentum=momentum)
    optimizer.zero_grad()
    loss = torch.zeros(())
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate(epoch / epochs)
        order = torch.randperm(len(memory), generator=generator)
        for slots in _chunks(order, batch):
            rows = batch_of_columns(memory.read(slots)).to(learner.device)
            with norms_kept(learner.model, len(rows)):
                loss = learner.mean_loss(learner.output(rows), rows)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    # Whatever is not finite once stays so in the weights, and in the last loss.
    if not bool(loss.isfinite()):
        raise NonFiniteLoss(
            f"the loss of training on the memory is not finite after {epochs} epochs; lower the "
            "strategy's learning rate"
        )


@contextmanager
def norms_kept(model: nn.Module, rows: int) -> Iterator[None]:
    """For a single row put batch norms in eval mode that are given one number a channel of it.

    Of one number there are no statistics; of a map there are.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with norms_kept(norm, rows=1):
        ...     norm(torch.ones(1, 2)).shape, norm.training
        (torch.Size([1, 2]), False)
        >>> norm.training, int(norm.num_batches_tracked)
        (True, 0)
    """
    kind = nn.modules.batchnorm._BatchNorm
    modules = model.modules() if rows == 1 else ()
    norms = [module for module in modules if isinstance(module, kind) and module.training]
    hooks = [norm.register_forward_pre_hook(_settle, with_kwargs=True) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.training = True


def _settle(norm: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
    x = inputs[0] if inputs else named["input"]
    norm.training = x.numel() > x.shape[1]


def _chunks(order: Tensor, size: int) -> list[Tensor]:
    chunks = list(order.split(size))  # type: ignore[no-untyped-call]
    if size > 1 and len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


def cosine(high: float, low: float) -> Callable[[float], float]:
    """A learning rate that falls from high to low along half a cosine.

    Example:
        >>> rate = cosine(0.1, 0.0)
        >>> rate(0.0), round(rate(0.5), 3)
        (0.1, 0.05)
    """
    return lambda progress: low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


def check_training(epochs: int, batch: int, lr: float) -> None:
    """Raise ValueError unless one can train so.

    Example:
        >>> check_training(epochs=0, batch=32, lr=0.1)
        Traceback (most recent call last):
        ...
        ValueError: epochs is 0; it must be 1 or more
    """
    for name, value in (("epochs", epochs), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr is {lr}; it must be positive")
