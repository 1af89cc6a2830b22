"""Row gradients of the common modules from their inputs and output gradients, never formed whole.

A module's weight meets row n through its input x_n and the gradient delta_n of row n's loss with
respect to its output. Both come out of one pass over a batch, and so does, for each row n, the
gradient of the weight; what is added up here is its power, |g_n| or g_n**2, over the rows.
The trick for linear layers is Goodfellow 2015, "Efficient per-example gradient computations",
arXiv:1510.01799; for convolutions it is Rochette, Manoel & Tramel 2019, arXiv:1912.06015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Power: TypeAlias = Literal[1, 2]
Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

# Bytes of patches and row gradients at a time: a core's cache, or plenty for an accelerator.
_CACHE_BYTES = 1 << 21
_ACCELERATOR_BYTES = 1 << 28
# From this many values on, rows are better added one by one, each read from cache once.
_LONG_ROW = 1 << 14


def has_closed_form(module: nn.Module) -> bool:
    """Tell whether `add_row_powers` knows this very type, used as the type was written.

    Example:
        >>> has_closed_form(nn.Linear(2, 2)), has_closed_form(nn.Bilinear(2, 2, 2))
        (True, False)
    """
    if type(module) not in FORMS or "forward" in vars(module):
        return False
    if isinstance(module, nn.Embedding):
        # Both make a row's gradient, or the weight itself, depend on the other rows.
        return module.max_norm is None and not module.scale_grad_by_freq
    return dict(module.named_parameters()).keys() <= {"weight", "bias"}


def rows_first(module: nn.Module, x: Tensor, output: Tensor, rows: int) -> bool:
    """Tell whether the shapes of a call allow its first dimension to be the rows of a batch."""
    if not (x.ndim and output.ndim and x.shape[0] == output.shape[0] == rows):
        return False
    if isinstance(module, Convolution):
        return x.ndim == module.weight.ndim
    if isinstance(module, nn.LayerNorm):
        return x.ndim > len(module.normalized_shape)
    return x.ndim > (0 if isinstance(module, nn.Embedding) else 1)


def add_row_powers(
    module: nn.Module, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    """Add sum over rows n of |g_n|**power to `into`, for each of the module's parameters in it.

    Args:
        module: one that `has_closed_form`, in eval mode.
        x: the module's input, (rows, ...).
        delta: gradient of the sum of the rows' losses with respect to the output, (rows, ...).
        power: 1 or 2.
        into: sums by the parameter's name within the module; changed in place.

    Example:
        >>> sums = {"bias": torch.zeros(1)}
        >>> delta = torch.tensor([[1.0], [-3.0]])
        >>> add_row_powers(nn.Linear(2, 1), torch.zeros(2, 2), delta, 2, sums)
        >>> sums["bias"].item()
        10.0
    """
    dtype = next(iter(into.values())).dtype
    x = x.to(dtype) if x.is_floating_point() else x
    FORMS[type(module)](module, x, delta.to(dtype), power, into)


def _add_powers(total: Tensor, gradients: Tensor, power: Power) -> None:
    """Add |gradients|**power, (rows, *shape), to a total of that shape; gradients may be eaten."""
    if not (gradients.device.type == "cpu" and total.numel() >= _LONG_ROW):
        total.add_(_power(gradients, power).sum(0))
        return
    for gradient in gradients:
        if power == 2:
            total.addcmul_(gradient, gradient)
        else:
            total.add_(gradient.abs())


def _power(values: Tensor, power: Power) -> Tensor:
    return values.square() if power == 2 else values.abs()


def _chunks(rows: int, values: int, like: Tensor) -> Iterator[slice]:
    """Cut the rows so that each piece holds about as many values as is good for the device."""
    budget = _CACHE_BYTES if like.device.type == "cpu" else _ACCELERATOR_BYTES
    step = max(1, budget // (values * like.element_size()))
    return (slice(start, start + step) for start in range(0, rows, step))


def _linear(
    module: nn.Linear, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    if x.ndim == 2:  # g_n = delta_n x_n^T has one term, so that powers go inside
        for part in _chunks(len(x), x.shape[1] + delta.shape[1], x):
            left = _power(delta[part], power)
            if "weight" in into:
                into["weight"].addmm_(left.T, _power(x[part], power))
            if "bias" in into:
                into["bias"].add_(left.sum(0))
        return
    x, delta = x.flatten(1, -2), delta.flatten(1, -2)  # (rows, positions, features)
    if "weight" in into:
        values = x[0].numel() + module.weight.numel()
        for part in _chunks(len(x), values, x):
            _add_powers(into["weight"], delta[part].transpose(1, 2) @ x[part], power)
    if "bias" in into:
        _add_powers(into["bias"], delta.sum(1), power)


def _convolution(
    module: Convolution, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    delta = delta.flatten(2)  # (rows, outputs, positions)
    if "bias" in into:
        _add_powers(into["bias"], delta.sum(2), power)
    if "weight" not in into:
        return
    x, groups = _padded(module, x), module.groups
    total = into["weight"].view(groups, module.out_channels // groups, -1)
    positions = delta.shape[2]
    values = total.shape[2] * groups * positions + total.numel()
    for part in _chunks(len(x), values, x):
        patches = _patches(module, x[part]).reshape(-1, groups, total.shape[2], positions)
        left = delta[part].reshape(-1, groups, total.shape[1], positions)
        _add_powers(total, left @ patches.transpose(2, 3), power)


def _padded(module: Convolution, x: Tensor) -> Tensor:
    pairs: list[int] = []
    for dim in reversed(range(x.ndim - 2)):  # F.pad counts from the last dimension
        if module.padding == "same":
            needed = module.dilation[dim] * (module.kernel_size[dim] - 1)
            pairs += [needed // 2, needed - needed // 2]
        else:
            pairs += [0 if isinstance(module.padding, str) else int(module.padding[dim])] * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, pairs, mode) if any(pairs) else x


def _patches(module: Convolution, x: Tensor) -> Tensor:
    """View a padded x as (rows, inputs, *kernel, *positions), without copying."""
    kernel, dims = module.kernel_size, range(x.ndim - 2)
    sizes = [
        (x.shape[2 + i] - module.dilation[i] * (kernel[i] - 1) - 1) // module.stride[i] + 1
        for i in dims
    ]
    steps = x.stride()
    within = [steps[2 + i] * module.dilation[i] for i in dims]
    between = [steps[2 + i] * module.stride[i] for i in dims]
    return x.as_strided(
        (*x.shape[:2], *kernel, *sizes), (*steps[:2], *within, *between), x.storage_offset()
    )


def _embedding(
    module: nn.Embedding, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    # A row that names a token twice has one gradient for it: add before taking the power.
    row = torch.arange(len(x), device=x.device).repeat_interleave(x[0].numel())
    pairs, place = torch.unique(row * module.num_embeddings + x.flatten(), return_inverse=True)
    gradients = delta.new_zeros(len(pairs), module.embedding_dim)
    gradients.index_add_(0, place, delta.reshape(-1, module.embedding_dim))
    token = pairs % module.num_embeddings
    if module.padding_idx is not None:
        gradients.masked_fill_((token == module.padding_idx).unsqueeze(1), 0)
    into["weight"].index_add_(0, token, _power(gradients, power))


def _scale_and_shift(
    normalized: Tensor, delta: Tensor, dims: range, power: Power, into: dict[str, Tensor]
) -> None:
    """Handle scale * normalized + shift, of which a row sums `dims` (the positions)."""
    for name, gradients in (("weight", normalized.mul_(delta)), ("bias", delta)):
        if name in into:
            _add_powers(into[name], gradients.sum(tuple(dims)) if dims else gradients, power)


def _layer_norm(
    module: nn.LayerNorm, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    normalized = F.layer_norm(x, module.normalized_shape, eps=module.eps)
    positions = range(1, x.ndim - len(module.normalized_shape))
    _scale_and_shift(normalized, delta, positions, power, into)


def _group_norm(
    module: nn.GroupNorm, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    normalized = F.group_norm(x, module.num_groups, eps=module.eps)
    _scale_and_shift(normalized, delta, range(2, x.ndim), power, into)


def _batch_norm(
    module: BatchNorm, x: Tensor, delta: Tensor, power: Power, into: dict[str, Tensor]
) -> None:
    assert module.running_mean is not None
    assert module.running_var is not None
    mean, variance = module.running_mean.to(x.dtype), module.running_var.to(x.dtype)
    normalized = F.batch_norm(x, mean, variance, eps=module.eps)
    _scale_and_shift(normalized, delta, range(2, x.ndim), power, into)


FORMS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, Power, dict[str, Tensor]], None]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}
"""Which formula a module's parameters follow, by its exact type (a subclass may do anything)."""
