"""GPM: gradient projection memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import NothingLeftToLearn
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.core.undisturbed import undisturbed
from lifelong.strategies.sample import checked_rows, sampled

Layer = nn.Linear | nn.Conv2d


class GPM(Strategy):
    """Change each layer only in directions in which the inputs of past tasks do not lie.

    G~ = G - (G M) M', with M an orthonormal basis of a layer's past inputs: after each task it
    gains the leading directions of R - M M' R until ||M M' R||**2 >= threshold * ||R||**2
    Saha, Garg & Roy 2021, arXiv:2103.09762 (gradient projection memory).

    R has a column for each row of data (`nn.Linear`) or patch (`nn.Conv2d`); its directions are
    found in float64 from R R', whose products are float32 within a batch and whose sums over
    batches float64, over all rows where the authors take a few hundred. A bias is the
    weight of one more input that is always 1; the authors have none. The step is projected as
    well as the gradient, so that momentum, Adam and weight decay stay within bounds too. What is
    no such layer (norms, embeddings) is held still after the first consolidation, as the
    authors do; so is a layer that no row has passed, or whose module is not called as one. Layers
    that come later, such as the outputs of a new task, are free until the next consolidation.

    Args:
        threshold: what share of the inputs' square norm is held, above 0 to 1 (where a direction
            with less than a millionth of it counts as rounding).
        rise: what is added to that with each task, up to 1.
        rows: look at so many rows of a task, drawn at random; None for all.

    Attributes:
        basis: by a layer's name, M: (inputs, directions).

    Raises:
        ValueError: a threshold or rise out of range, or fewer than one batch.
        NothingLeftToLearn: from a step, when the bases are full and nothing else is free.

    Example:
        >>> GPM(threshold=0.95).basis
        {}
    """

    state: ClassVar[tuple[str, ...]] = ("basis", "still", "tasks")

    def __init__(
        self, threshold: float = 0.97, *, rise: float = 0.003, rows: int | None = None
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must lie above 0, and be 1 at most")
        if not 0 <= rise <= 1:
            raise ValueError(f"rise is {rise}; it must lie between 0 and 1")
        self.threshold = threshold
        self.rise = rise
        self.rows = checked_rows(rows)
        self.basis: dict[str, Tensor] = {}
        self.still: list[str] = []
        """Names of the parameters that are held as they are."""
        self.tasks = 0
        self._before: tuple[int, dict[str, Tensor]] | None = None

    @property
    def full(self) -> list[str]:
        """Names of the layers that past inputs fill, so that they can learn nothing more."""
        return [name for name, basis in self.basis.items() if basis.shape[1] >= basis.shape[0]]

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Project the gradients, and remember the weights for the step."""
        self._before = None
        if not self.basis:
            return
        learned = {n: p for n, p in learner.parameters.items() if p.grad is not None}
        fixed = {*self.still, *(name for layer in self.full for name in _own(layer))}
        if not learned.keys() - fixed:
            raise NothingLeftToLearn(
                f"the inputs of {self.tasks} tasks fill every layer ({', '.join(self.full)}), so "
                "nothing can change any more; take a lower threshold than "
                f"{self.threshold}, wider layers, or a new model"
            )
        self._bound({n: p.grad for n, p in learned.items() if p.grad is not None})
        # All of them: an optimizer with momentum also moves what has no gradient now.
        self._before = learner.steps, {n: p.clone() for n, p in learner.parameters.items()}

    def after_step(self, learner: Learner, batch: Batch, output: object) -> None:
        """Take out of the step what the optimizer has made of it beyond its gradient."""
        del batch, output
        self._correct(learner)

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Add the directions of the task's inputs to the basis of each layer."""
        self._correct(learner)  # a step that was taken between batches
        share = min(1.0, self.threshold + self.rise * self.tasks)
        squares = input_squares(learner, sampled(data, self.rows, self.generator))
        for name, square in squares.items():
            held = self.basis.get(name)
            self.basis[name] = extended_basis(square, held, share)
        based = {name for layer in self.basis for name in _own(layer)}
        self.still = [name for name in learner.parameters if name not in based]
        self.tasks += 1

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state; the weights before a step that failed are no part of it."""
        super().load_state_dict(state)
        self._before = None

    @torch.no_grad()
    def _correct(self, learner: Learner) -> None:
        before, self._before = self._before, None
        if before is None or learner.steps == before[0]:
            return
        moved = {n: p - before[1][n] for n, p in learner.parameters.items() if n in before[1]}
        self._bound(moved)
        for name, step in moved.items():
            learner.parameters[name].copy_(before[1][name] + step)

    def _bound(self, changes: dict[str, Tensor]) -> None:
        """Project changes of the parameters, in place."""
        for name in self.still:
            if name in changes:
                changes[name].zero_()
        for layer, basis in self.basis.items():
            weight, bias = (changes.get(name) for name in _own(layer))
            if weight is None:
                continue
            flat = weight.flatten(1)  # (outputs, inputs)
            if bias is not None:
                flat = torch.cat((flat, bias[:, None]), 1)
            basis = basis.to(flat.dtype)
            flat = flat - (flat @ basis) @ basis.T
            if bias is not None:
                bias.copy_(flat[:, -1])
            weight.copy_(flat[:, : weight[0].numel()].view_as(weight))


def _own(layer: str) -> tuple[str, str]:
    """Name a layer's parameters; the model itself may be one, without a name."""
    start = f"{layer}." if layer else ""
    return f"{start}weight", f"{start}bias"


def input_squares(learner: Learner, data: Iterable[Batch]) -> dict[str, Tensor]:
    """Sum x x' over the inputs x of each layer that learns, by its name.

    That of a batch is computed in float32, twice as fast; batches are summed in float64.

    x is a row's input or a patch of it, and a 1 at its end where the layer has a bias.
    """
    squares: dict[str, Tensor] = {}
    with undisturbed(learner.model), torch.no_grad(), _watched(learner, squares):
        for batch in data:
            learner.output(batch)
    return squares


@contextmanager
def _watched(learner: Learner, squares: dict[str, Tensor]) -> Iterator[None]:
    hooks = [
        module.register_forward_pre_hook(partial(_add_inputs, squares, name))
        for name, module in learner.model.named_modules()
        if isinstance(module, Layer) and _own(name)[0] in learner.parameters
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add_inputs(
    squares: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    x = inputs[0].float()
    if isinstance(module, nn.Conv2d):
        x = _patches(module, x)
    x = x.flatten(0, -2)
    bias = module.bias
    if isinstance(bias, nn.Parameter) and bias.requires_grad:
        x = F.pad(x, (0, 1), value=1.0)
    square = (x.T @ x).double()
    squares[name] = squares[name] + square if name in squares else square


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """Cut images into what one output sees, (patches, inputs of it); groups are as more images."""
    if isinstance(module.padding, str):
        needed = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if module.padding == "valid":
            needed = [0, 0]
        pads = [n for size in reversed(needed) for n in (size // 2, size - size // 2)]
    else:
        pads = [module.padding[1]] * 2 + [module.padding[0]] * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, pads, mode)
    x = x.reshape(len(x) * module.groups, -1, *x.shape[2:])
    cut = F.unfold(x, module.kernel_size, dilation=module.dilation, stride=module.stride)
    return cut.transpose(1, 2)


def extended_basis(square: Tensor, basis: Tensor | None, threshold: float) -> Tensor:
    """Add leading directions to a basis until it holds a share of the inputs' square norm.

    Args:
        square: R R', (inputs, inputs), in float64.
        basis: (inputs, directions), or None.
        threshold: the share.

    Returns:
        (inputs, directions or more) in float32, orthonormal columns.

    Example:
        >>> square = torch.diag(torch.tensor([8.0, 1.0, 1.0], dtype=torch.float64))
        >>> extended_basis(square, None, 0.75).abs().tolist()
        [[1.0], [0.0], [0.0]]
    """
    held = square.new_zeros(len(square), 0) if basis is None else basis.double()
    total = square.trace()
    rest = square - held @ (held.T @ square)
    rest = rest - (rest @ held) @ held.T
    values, vectors = torch.linalg.eigh((rest + rest.T) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    holds = total - values.sum() + torch.cat((values.new_zeros(1), values.cumsum(0)))
    # What rounding leaves of nothing is no direction.
    wanted = int((holds < threshold * total).sum())
    count = min(wanted, int((values > 1e-6 * total).sum()), len(square) - held.shape[1])
    whole: Tensor = torch.linalg.qr(torch.cat((held, vectors[:, :count]), 1)).Q
    return whole.float().contiguous()  # a state that was saved comes back so
