"""GPM: gradient projection memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from lifelong.strategies.span import spanned

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
    A weight that several layers share is bound by the inputs of all of them; held still are their
    biases, unless they share one, too, and a weight that an embedding shares. A bias that learns
    only later is held, as its input was 1 for all past rows.

    Args:
        threshold: what share of the inputs' square norm is held, above 0 to 1 (where a direction
            with less than a millionth of it counts as rounding).
        rise: what is added to that with each task, up to 1.
        rows: look at so many rows of a task, drawn at random; None for all.

    Attributes:
        basis: by a layer's name, M: (inputs, directions), with a last row for a bias that learned.

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
        self._cut: dict[str, Tensor] = {}

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
        learned = {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}
        spaces = self._spaces(learned)
        filled = {n for names, basis in spaces if basis.shape[1] >= len(basis) for n in names}
        if not learned.keys() - filled - {*self.still}:
            raise NothingLeftToLearn(
                f"the inputs of {self.tasks} tasks fill every layer "
                f"({', '.join(self.full or self.basis)}), so nothing can change any more; take a "
                f"lower threshold than {self.threshold}, wider layers, or a new model"
            )
        self._bound(learned)
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
        for name, module, _ in _layers(learner):
            if module not in squares:
                continue
            square, held = squares[module], self.basis.get(name)
            if held is not None and len(held) != len(square):  # its bias learns now, or no more
                held = _cut(held, len(square)) if len(held) > len(square) else _padded(held)
            self.basis[name] = extended_basis(square, held, share)
        self._cut = {}
        based = {name for names, _ in self._spaces(learner.parameters) for name in names}
        self.still = [name for name in learner.parameters if name not in based]
        self.tasks += 1

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state; the weights before a step that failed are no part of it."""
        super().load_state_dict(state)
        self._before, self._cut = None, {}

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
        for names, basis in self._spaces(changes):
            parts = [changes[name] for name in names]
            flat = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
            basis = basis.to(flat.dtype)  # flat: (outputs, inputs)
            flat = flat - (flat @ basis) @ basis.T
            at = 0
            for part in parts:
                before, at = at, at + part[0].numel()
                part.copy_(flat[:, before:at].view_as(part))

    def _spaces(self, changes: Mapping[str, Tensor]) -> Iterator[tuple[list[str], Tensor]]:
        """Name which of these are bound together, and give the basis that they are bound by."""
        for layer, basis in self.basis.items():
            weight, bias = _own(layer)
            inputs = changes[weight][0].numel() if weight in changes else 0
            together = bias in changes and len(basis) > inputs > 0
            if bias in changes and not together:  # its input was 1 for all past rows
                yield [bias], basis.new_ones(1, 1)
            if inputs and len(basis) > inputs and not together:
                if layer not in self._cut:
                    self._cut[layer] = _cut(basis, inputs)
                basis = self._cut[layer]
            if inputs:
                yield [weight, bias] if together else [weight], basis


def _cut(basis: Tensor, inputs: int) -> Tensor:
    """What a basis holds of the first inputs, without that of a bias."""
    return spanned([basis[:inputs].T])[0].T.contiguous()


def _padded(basis: Tensor) -> Tensor:
    """Add the input of a bias, as a direction of its own: what it was with is not known."""
    return torch.block_diag(basis, basis.new_ones(1, 1))  # type: ignore[no-untyped-call,no-any-return]


def _own(layer: str) -> tuple[str, str]:
    """Name a layer's parameters; the model itself may be one, without a name."""
    start = f"{layer}." if layer else ""
    return f"{start}weight", f"{start}bias"


def input_squares(learner: Learner, data: Iterable[Batch]) -> dict[nn.Module, Tensor]:
    """Sum x x' over the inputs x of each layer that learns.

    That of a batch is computed in float32, twice as fast; batches are summed in float64.

    x is a row's input or a patch of it, and a 1 at its end where a bias of its own learns, too.
    """
    squares: dict[nn.Module, Tensor] = {}
    with undisturbed(learner.model), torch.no_grad(), _watched(learner, squares):
        for batch in data:
            learner.output(batch)
    return squares


@contextmanager
def _watched(learner: Learner, squares: dict[nn.Module, Tensor]) -> Iterator[None]:
    hooks = [
        module.register_forward_pre_hook(partial(_add_inputs, squares, bias))
        for _, module, bias in _layers(learner)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(learner: Learner) -> Iterator[tuple[str, Layer, bool]]:
    """Find the layers whose weights learn, each with its basis's name and if a bias is in that.

    Layers that share a weight have one basis, by the first one's name.
    """
    owners: dict[int, list[nn.Module]] = {}
    for module in learner.model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(module)
    named = {id(parameter): name for name, parameter in learner.parameters.items()}
    for module in learner.model.modules():
        if not isinstance(module, Layer) or id(module.weight) not in named:
            continue
        weight, bias = id(module.weight), id(module.bias)
        if any(not isinstance(o, Layer) or id(o.weight) != weight for o in owners[weight]):
            continue
        alike = all(id(owner.bias) == bias for owner in owners[weight])
        own = bias in named and len(owners[bias]) == len(owners[weight])
        yield named[weight].removesuffix("weight").removesuffix("."), module, alike and own


def _add_inputs(
    squares: dict[nn.Module, Tensor], bias: bool, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    x = inputs[0].float()
    if isinstance(module, nn.Conv2d):
        x = _patches(module, x)
    x = x.flatten(0, -2)
    if bias:
        x = F.pad(x, (0, 1), value=1.0)
    square = (x.T @ x).double()
    squares[module] = squares[module] + square if module in squares else square


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
