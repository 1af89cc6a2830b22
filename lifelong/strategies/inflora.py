"""InfLoRA: new tasks learn where the inputs of earlier ones do not lie."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from lifelong.core.batch import Batch
from lifelong.core.errors import NothingLeftToLearn, StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.core.undisturbed import undisturbed
from lifelong.nets.adapters import Pair, adapters
from lifelong.nets.lora import LoRA
from lifelong.strategies.gpm import extended_basis
from lifelong.strategies.sample import checked_rows, sampled


class InfLoRA(Strategy):
    """Let the newest LoRA of each layer see nothing of what earlier tasks put into that layer.

    A <- A - (A M) M' after each step, so that (W + up A) x = W x for the past inputs x, with M an
    orthonormal basis of them; after each task it gains directions as in `GPM`
    Liang & Li 2024, arXiv:2404.00228 (interference-free LoRA).

    The authors pass over a task's rows before they learn from it, take their leading directions
    outside M for A, and then learn the way up alone. A stream has not shown those rows yet: here
    A is drawn, learns, and is kept outside M. They also switch to the complement of M once M
    is more than half of the space, which saves memory and changes nothing else. A consolidation
    within a task adds directions, too, but a set is held outside those alone that were there
    before it, as the others are what it learns from.

    Args:
        threshold: what share of the inputs' square norm is held, above 0 to 1.
        rows: look at so many rows of a task, drawn at random; None for all.

    Attributes:
        basis: by a layer's name, M: (inputs, directions), the newest last.

    Raises:
        ValueError: a threshold out of range, or no rows; while learning, a model without summed
            LoRA.
        NothingLeftToLearn: from a step, when past inputs leave no layer a direction.

    Example:
        >>> InfLoRA(threshold=0.95).basis
        {}
    """

    state: ClassVar[tuple[str, ...]] = ("basis", "newest", "before")

    def __init__(self, threshold: float = 0.97, *, rows: int | None = None) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must lie above 0, and be 1 at most")
        self.threshold = threshold
        self.rows = checked_rows(rows)
        self.basis: dict[str, Tensor] = {}
        self.newest: dict[str, str | None] = {}
        """By a layer's name, the set that was the newest when it gained its last directions."""
        self.before: dict[str, int] = {}
        """How many directions the layer had before that set gave it some."""

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Find layers without sets, or without room for one, before a step is taken."""
        layers = _layers(learner)
        if all(self._is_full(name, layer) for name, layer in layers.items()):
            raise NothingLeftToLearn(
                f"the inputs of earlier tasks fill every layer ({', '.join(layers)}), so new sets "
                f"can learn nothing; take a lower threshold than {self.threshold}, or wider layers"
            )

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch, output: object) -> None:
        """Take out of the newest sets what looks at past inputs."""
        del batch, output
        self._correct(learner)

    def _correct(self, learner: Learner) -> None:
        for name, layer in _layers(learner).items():
            newest = layer.newest
            if newest is None or name not in self.basis:
                continue
            pair = layer.pairs[newest]
            assert isinstance(pair, Pair)
            down, basis = pair.down.weight, self._past(name, newest).to(pair.down.weight.dtype)
            down -= (down @ basis) @ basis.T

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Add the directions of the task's inputs to the basis of each layer."""
        self._correct(learner)  # a step that was taken between batches
        layers, squares = _layers(learner), dict[str, Tensor]()
        hooks = [
            layer.register_forward_pre_hook(partial(_add, squares, name))
            for name, layer in layers.items()
        ]
        try:
            with undisturbed(learner.model), torch.no_grad():
                for batch in sampled(data, self.rows, self.generator):
                    learner.output(batch)
        finally:
            for hook in hooks:
                hook.remove()
        for name, square in squares.items():
            held, newest = self.basis.get(name), layers[name].newest
            self.before[name] = 0 if held is None else self._past(name, newest).shape[1]
            self.newest[name] = newest
            self.basis[name] = extended_basis(square, held, self.threshold)

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: it is another strategy's, or what it holds of a layer does not fit
                together.
        """
        if state.keys() >= {*self.state}:
            _check(state)
        super().load_state_dict(state)

    def _is_full(self, name: str, layer: LoRA) -> bool:
        if name not in self.basis:
            return False
        past = self._past(name, layer.newest)
        return past.shape[1] >= past.shape[0]

    def _past(self, name: str, newest: str | None) -> Tensor:
        """Give the directions of a layer that are not from the newest set's own task."""
        basis = self.basis[name]
        return basis[:, : self.before[name]] if self.newest[name] == newest else basis


def _check(state: State) -> None:
    """Raise `StateMismatch` unless what is held of each layer fits together."""
    parts = [state[name] for name in InfLoRA.state]
    layers = [part.keys() if isinstance(part, dict) else None for part in parts]
    if layers[0] is None or any(others != layers[0] for others in layers):
        told = [sorted(map(str, names)) if names is not None else None for names in layers]
        raise StateMismatch(
            f"basis, newest and before are of the layers {told}, and must be of the same; the "
            "state is damaged, load another"
        )
    for name in layers[0]:
        basis, newest, before = (part[name] for part in parts)
        plane = isinstance(basis, Tensor) and basis.is_floating_point() and basis.ndim == 2
        counted = plane and type(before) is int and 0 <= before <= basis.shape[1]
        if not counted or not isinstance(newest, str | None):
            shape = tuple(basis.shape) if isinstance(basis, Tensor) else basis
            raise StateMismatch(
                f"of {name} the state has a basis of shape {shape}, {before!r} directions before "
                f"those of the set {newest!r}; the state is damaged, load another"
            )


def _layers(learner: Learner) -> dict[str, LoRA]:
    found = {n: m for n, m in adapters(learner.model) if isinstance(m, LoRA) and m.sets == "summed"}
    if not found:
        raise ValueError(
            f"{type(learner.model).__name__} has no summed LoRA; make it with "
            'add_lora(model, sets="summed")'
        )
    return found


def _add(
    squares: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    del module
    x = inputs[0].flatten(0, -2).float()
    square = (x.T @ x).double()
    squares[name] = squares[name] + square if name in squares else square
