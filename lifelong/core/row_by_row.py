"""Powers of the gradients of single rows, one row at a time or many rows through vmap."""

from __future__ import annotations

from typing import TypeAlias
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.closed_forms import Power

Sums: TypeAlias = dict[str, Tensor]
"""By parameter name, a sum over rows."""

_HELD_VALUES = 1 << 23  # how many values the row gradients held at a time may have


def vmapped_row_powers(
    scored: nn.Module, chosen: Sums, batch: Batch, power: Power
) -> tuple[Sums, Sums]:
    """Sum |g_n|**power and g_n over rows n (and over the losses, where a row has several).

    Args:
        scored: a module that maps a `Batch` to a tuple of (rows,) losses.
        chosen: those of its parameters to go by, by name.
        batch: the rows.
        power: 1 or 2.

    Raises:
        Exception: whatever the module does when `torch.func.vmap` cannot follow it.

    Example:
        >>> class Scored(nn.Linear):
        ...     def forward(self, batch):
        ...         return (super().forward(batch.x)[:, 0],)
        >>> scored = Scored(1, 1)
        >>> batch = Batch.of(torch.tensor([[1.0], [-3.0]]), torch.zeros(2))
        >>> powers, sums = vmapped_row_powers(scored, {"weight": scored.weight}, batch, 2)
        >>> powers["weight"].item(), sums["weight"].item()
        (10.0, -2.0)
    """
    chosen = {name: parameter.detach() for name, parameter in chosen.items()}

    def of_row(columns: dict[str, Tensor]) -> tuple[Sums, Sums]:
        row = batch_of_columns({name: column.unsqueeze(0) for name, column in columns.items()})

        def losses(values: Sums) -> tuple[Tensor, ...]:
            return tuple(loss.sum() for loss in functional_call(scored, values, (row,)))

        found, pull = vjp(losses, chosen)[:2]
        powers: Sums = {}
        sums: Sums = {}
        for i in range(len(found)):
            unit = tuple(torch.full_like(loss, float(i == j)) for j, loss in enumerate(found))
            (gradients,) = pull(unit)
            for name, gradient in gradients.items():
                raised = gradient.square() if power == 2 else gradient.abs()
                powers[name] = powers[name] + raised if i else raised
                sums[name] = sums[name] + gradient if i else gradient
        return powers, sums

    powers, sums = _zeros(chosen), _zeros(chosen)
    step = max(1, _HELD_VALUES // sum(parameter.numel() for parameter in chosen.values()))
    for start in range(0, len(batch), step):
        part = batch.rows(slice(start, start + step))
        with sdpa_kernel(SDPBackend.MATH), catch_warnings():
            # Fused attention has no rule for vmap; of what else has none, torch warns.
            filterwarnings("ignore", "There is a performance drop", UserWarning)
            both = vmap(of_row, randomness="different")(dict(part.columns()))
        for into, found in zip((powers, sums), both, strict=True):
            for name, values in found.items():
                into[name].add_(values.sum(0))
    return powers, sums


def looped_row_powers(scored: nn.Module, chosen: Sums, batch: Batch, power: Power) -> Sums:
    """Sum |g_n|**power over rows n, with a forward and backward pass for each row.

    Example:
        >>> class Scored(nn.Linear):
        ...     def forward(self, batch):
        ...         return (super().forward(batch.x)[:, 0],)
        >>> scored = Scored(1, 1)
        >>> batch = Batch.of(torch.tensor([[1.0], [-3.0]]), torch.zeros(2))
        >>> looped_row_powers(scored, {"weight": scored.weight}, batch, 2)["weight"].item()
        10.0
    """
    powers = _zeros(chosen)
    for n in range(len(batch)):
        for loss in scored(batch.rows(slice(n, n + 1))):
            if not loss.requires_grad:
                continue
            gradients = torch.autograd.grad(
                loss.sum(), list(chosen.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(chosen, gradients, strict=True):
                if gradient is not None:
                    powers[name].add_(gradient.to_dense().abs() ** power)
    return powers


def _zeros(like: Sums) -> Sums:
    return {
        name: torch.zeros_like(values, dtype=torch.promote_types(values.dtype, torch.float32))
        for name, values in like.items()
    }
