"""LoRA: a frozen layer learns through a product of two thin matrices beside it."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from lifelong.core.errors import UnknownTask
from lifelong.nets.adapters import Adapter, Pair, Sets, adapters
from lifelong.nets.adapting import adapt
from lifelong.nets.route import Route


class LoRA(Adapter):
    """A frozen linear layer, and beside it a product of two thin matrices that learns.

    y = W x + b + (alpha / rank) * up down x, with up = 0 at first
    Hu et al. 2021, arXiv:2106.09685.

    As in the authors' code, down is drawn as torch draws linear layers, where the paper says
    normal; there is no dropout. `add_lora` puts these into a model.

    Args:
        base: `nn.Linear`, or the Conv1D of transformers.
        rank: width between the two.
        alpha: what their product is multiplied by, times the rank; None for the rank.
        sets: one set for all tasks, or more; see `add_lora`.
        route: shared by all adapters of a model.

    Raises:
        ValueError: another layer, or a rank or alpha that is not positive.

    Example:
        >>> layer = LoRA(nn.Linear(8, 4), rank=2)
        >>> [tuple(p.shape) for p in layer.parameters() if p.requires_grad]
        [(2, 8), (4, 2)]
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        *,
        alpha: float | None = None,
        sets: Sets = "shared",
        route: Route | None = None,
    ) -> None:
        self._check(rank, alpha)
        super().__init__(base, sets, Route() if route is None else route)
        self.rank = rank
        self.alpha = float(rank if alpha is None else alpha)
        self._plain: Tensor | None = None
        self._merged: int | None = None
        self.start()

    @staticmethod
    def _check(rank: int, alpha: float | None) -> None:
        check_rank(rank)
        if alpha is not None and not (isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha is {alpha}; it must be positive, or None for the rank")

    def new_pair(self) -> Pair:
        """Make a set."""
        return Pair(self.in_features, self.out_features, self.rank, scale=self.alpha / self.rank)

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """Look at what goes into the base."""
        del y
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., outputs); merged, the base does it alone."""
        if self._plain is None:
            return super().forward(x)
        if self.training:
            raise ValueError("a merged LoRA cannot learn; unmerge(model) first")
        if other := {*self.route.present} - {self._merged}:
            raise UnknownTask(
                f"task {', '.join(map(str, other))} cannot be answered by a model that is merged "
                f"with the set of task {self._merged}; unmerge(model) first"
            )
        return self.base(x)  # type: ignore[no-any-return]

    def overlap(self) -> Tensor:
        """Tell how much the newest set looks where earlier ones do: sum of (down_i down')**2.

        Raises:
            ValueError: sets are not summed, so that there is nothing to keep apart.
        """
        if self.sets != "summed":
            raise ValueError(
                f'sets={self.sets!r}, and only summed ones overlap; add_lora(..., sets="summed")'
            )
        names: list[str] = list(self.pairs)
        until = 0 if self.newest is None else names.index(self.newest) + 1
        pairs = [pair for name in names[:until] if isinstance(pair := self.pairs[name], Pair)]
        downs = [pair.down.weight for pair in pairs]
        if len(downs) < 2:
            return self._weight().new_zeros(())
        return (torch.cat(downs[:-1]) @ downs[-1].T).square().sum()

    @torch.no_grad()
    def merge(self, task: int | None = None) -> None:
        """Add the sets (or that of one task) to the base's weight."""
        if self._plain is not None:
            raise ValueError("it is merged already; unmerge(model) first")
        weight = self._weight()
        change = weight.new_zeros(self.out_features, self.in_features)
        for pair in self._merging(task):
            change += pair.scale * (pair.up.weight @ pair.down.weight)
        self._plain, self._merged = weight.clone(), task
        weight += change if isinstance(self.base, nn.Linear) else change.T

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the base its own weight back, to the bit."""
        if self._plain is not None:
            self._weight().copy_(self._plain)
            self._plain = None

    def _weight(self) -> Tensor:
        return self.weight.detach()

    def _merging(self, task: int | None) -> list[Pair]:
        if (task is None) == (self.sets == "task"):
            raise ValueError(
                f"merge(model, task={task}) with sets={self.sets!r}; name the task where each has "
                "a set of its own, and only there"
            )
        names = [*self.pairs] if task is None else [str(task)]
        if not {*names} <= {*self.pairs}:
            raise UnknownTask(f"task {task} has no set here; there are {[*self.pairs]}")
        return [pair for name in names if isinstance(pair := self.pairs[name], Pair)]

    def _save_to_state_dict(self, *args: Any, **named: Any) -> None:
        self.check_unmerged()
        super()._save_to_state_dict(*args, **named)

    def _load_from_state_dict(self, *args: Any, **named: Any) -> None:
        self.check_unmerged()
        super()._load_from_state_dict(*args, **named)

    def check_unmerged(self) -> None:
        """Raise `ValueError` while sets are added to the base's weight."""
        if self._plain is not None:
            raise ValueError(
                "the model is merged, and a merged state would be taken for an unmerged one, or "
                "the other way round; unmerge(model) before saving or loading"
            )


def add_lora(
    model: nn.Module,
    rank: int = 8,
    *,
    alpha: float | None = None,
    match: str | None = None,
    sets: Sets = "shared",
    head: bool | str = True,
) -> nn.Module:
    """Freeze a model and put a `LoRA` in the place of its linear layers; changed in place.

    `nn.MultiheadAttention` becomes an `Attention`, whose layers are named query, key, value and
    out. What normalises by running statistics stays in eval mode. Make the optimizer afterwards.

    Args:
        model: any module with linear layers.
        rank: of every set.
        alpha: strength of the sets; see `LoRA`.
        match: a regular expression that is searched in the layers' names; None takes all.
        sets: "shared": one for all tasks. "summed": each task brings one, all are added up, and
            earlier ones are frozen. "task": each task brings one, and each row of a batch gets
            its own task's; the base alone where that is not known.
        head: whether the head goes on learning as it is. It is the model's attribute `head`, else
            the last linear layer in the order of definition, which need not be the last that is
            run: where it is not, name the module, such as "model.classifier". False freezes and
            adapts it as the rest: take that where tasks share labels, which would overwrite it.

    Returns:
        The model; with sets="task", inside a `Routed` that wants the task.

    Raises:
        ValueError: no layer is there or matches, a rank or alpha that is not positive, unknown
            sets, a model with adapters, no such head, or one whose weight a frozen layer has, too.

    Example:
        >>> from lifelong.nets import MLP, Classifier
        >>> net = add_lora(Classifier(MLP(8, hidden=(16,)), nn.Linear(16, 2)), rank=2)
        >>> [name for name, p in net.named_parameters() if p.requires_grad][:2]
        ['backbone.layers.0.pairs.shared.down.weight', 'backbone.layers.0.pairs.shared.up.weight']
    """
    LoRA._check(rank, alpha)

    def make(layer: nn.Module, route: Route) -> LoRA:
        return LoRA(layer, rank, alpha=alpha, sets=sets, route=route)

    return adapt(model, make, match=match, sets=sets, head=head)


def merge(model: nn.Module, task: int | None = None) -> None:
    """Add each `LoRA` of a model to the weight beside it, so that it costs nothing to predict.

    Args:
        model: as `add_lora` made it.
        task: whose set to add, where each task has its own; all rows are then answered by it.

    Raises:
        ValueError: a model without LoRA, one that is merged, a task that is not named, or a weight
            that another module has, too (tied), which would change with it.
        UnknownTask: a task without a set; nothing is changed.

    Example:
        >>> net = add_lora(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), rank=2)
        >>> merge(net.eval())
        >>> unmerge(net)
    """
    layers = _layers(model)
    layers[0]._merging(task)
    _check_untied(model, layers)
    for layer in layers:
        layer.merge(task)


def unmerge(model: nn.Module) -> None:
    """Give every weight back that `merge` changed, to the bit."""
    for layer in _layers(model):
        layer.unmerge()


def check_rank(rank: int) -> None:
    """Raise `ValueError` unless it is a positive integer."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"rank is {rank!r}; it must be an integer of 1 or more")


def _layers(model: nn.Module) -> list[LoRA]:
    found = [layer for _, layer in adapters(model) if isinstance(layer, LoRA)]
    if not found and any(adapters(model)):
        raise ValueError(
            f"{type(model).__name__} has bottlenecks, which are no part of a weight and cannot be "
            "merged; predict with the model as it is, or learn with add_lora(model) instead"
        )
    if not found:
        raise ValueError(f"{type(model).__name__} has no LoRA; add_lora(model) first")
    return found


def _check_untied(model: nn.Module, layers: list[LoRA]) -> None:
    own = {layer.weight: layer.base for layer in layers}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if own.get(parameter, module) is not module:
                raise ValueError(
                    f"{name} has the very weight that a LoRA would be merged into (they are tied), "
                    "and would change with it; give it a copy: "
                    "weight = nn.Parameter(weight.detach().clone()), or leave the layer without "
                    "LoRA: add_lora(model, match=...)"
                )
