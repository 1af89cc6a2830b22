"""The gradient of each of several groups of rows, in one batched pass where the model allows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import LifelongError
from lifelong.core.forward import forward, wants_task
from lifelong.core.undisturbed import undisturbed

RowValue: TypeAlias = Callable[[Any, Batch], Tensor]
"""`value(output, batch)`: a value for each row, such as its loss, (rows,); or a scalar."""


def group_gradients(
    model: nn.Module,
    rows: Batch,
    weight: Tensor,
    value: RowValue,
    parameters: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Compute the gradient of each group's mean row value with respect to some parameters.

    g_t = d/dw of sum over rows n of group t of weight_n value_n / sum of the weights

    The model is in eval mode, in the precision of its parameters, and left without a trace: rows
    do not mix, and no buffer or random state changes. All groups go through the model at once
    (`torch.func.vmap`), so that the work is about that of one gradient over all rows. A model that
    vmap cannot follow is gone through group by group. Which of the two is tried anew each time, so
    that nothing depends on what went before; torch finds out within the forward pass.

    Args:
        model: called as learners do.
        rows: of all groups, one group after the other, each of equally many rows.
        weight: (groups, rows of a group), 0 for rows that only fill a group up.
        value: of each row; a scalar is taken for the mean of the rows whose weight is not 0.
        parameters: of the model, by name.

    Returns:
        (groups, *shape) for each parameter, by name.

    Raises:
        LifelongError, OutOfMemoryError: as they come, from either way.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> batch = Batch.of(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2))
        >>> first = group_gradients(net, batch, torch.ones(2, 1), lambda out, rows: out[:, 0],
        ...     dict(net.named_parameters()))
        >>> first["weight"].tolist()
        [[[1.0, 0.0]], [[0.0, 3.0]]]
    """
    with undisturbed(model):
        if len(weight) > 1:
            try:
                return _batched(model, rows, weight, value, parameters)
            except (LifelongError, torch.OutOfMemoryError):
                raise
            except Exception:  # any other: a model may do what vmap cannot follow; the loop can
                pass
        return _looped(model, rows, weight, value, parameters)


def _batched(
    model: nn.Module,
    rows: Batch,
    weight: Tensor,
    value: RowValue,
    parameters: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    asks = wants_task(model)

    def mean(values: dict[str, Tensor], columns: dict[str, Tensor], share: Tensor) -> Tensor:
        group = batch_of_columns(columns)

        def called(*inputs: Any, **named: Any) -> Any:
            return functional_call(model, values, inputs, named)

        found = value(forward(called, group.x, group.task if asks else None), group)
        if found.shape != share.shape:
            raise ValueError(f"values of shape {tuple(found.shape)} cannot be weighted")
        return torch.dot(found, share.to(found.dtype))

    share = weight / weight.sum(1, keepdim=True)
    columns = {
        name: column.view(*weight.shape, *column.shape[1:])
        for name, column in rows.columns()
        if name != "weight"
    }
    held = {name: parameter.detach() for name, parameter in parameters.items()}
    with sdpa_kernel(SDPBackend.MATH), catch_warnings():
        # Fused attention has no rule for vmap; of what else has none, torch warns.
        filterwarnings("ignore", "There is a performance drop", UserWarning)
        found: dict[str, Tensor] = vmap(grad(mean), in_dims=(None, 0, 0))(held, columns, share)
    return {name: gradients.detach() for name, gradients in found.items()}


def _looped(
    model: nn.Module,
    rows: Batch,
    weight: Tensor,
    value: RowValue,
    parameters: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    asks, size = wants_task(model), weight.shape[1]
    into = {n: p.new_zeros(len(weight), *p.shape) for n, p in parameters.items()}
    for at, share in enumerate(weight):
        index = share.nonzero().flatten()
        group = rows.rows(at * size + index)
        found = value(forward(model, group.x, group.task if asks else None), group)
        if found.ndim:
            found = torch.dot(found, share[index].to(found.dtype)) / share[index].sum()
        if not found.requires_grad:
            continue
        gradients = torch.autograd.grad(found, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                into[name][at] = gradient.to_dense()
    return into
