"""Small sets of parameters beside frozen layers: one for all tasks, or one for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.features import head_of
from lifelong.core.forward import wants_task
from lifelong.core.task import TaskSpec
from lifelong.nets.by_task import is_newest
from lifelong.nets.route import Route

Sets = Literal["shared", "summed", "task"]
"""One set for all tasks; one more with each task, all added up and earlier ones frozen; or one for
each task, of which every row gets its own task's."""


class Pair(nn.Module):
    """One set of one layer: down to a few numbers, through `bend`, and up again.

    output = up(bend(down(x)) * scale)

    Example:
        >>> Pair(8, 4, rank=2)(torch.ones(3, 8)).tolist() == [[0.0] * 4] * 3
        True
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rank: int,
        *,
        scale: float = 1.0,
        bias: bool = False,
        bend: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias)
        self.up = nn.Linear(rank, outputs, bias)
        self.scale = scale
        self.bend = bend
        nn.init.zeros_(self.up.weight)  # so that a new set changes nothing at first
        if bias:
            nn.init.zeros_(self.up.bias)

    def between(self, h: Tensor) -> Tensor:
        """Do what comes between down and up."""
        h = h if self.bend is None else self.bend(h)
        return h if self.scale == 1 else h * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., outputs) from (..., inputs)."""
        return self.up(self.between(self.down(x)))  # type: ignore[no-any-return]


class Adapter(nn.Module, ABC):
    """A layer that stays as it is, with sets of parameters beside it that learn.

    Its weight, bias and sizes are those of the layer, for models that read a type or a shape
    there; what multiplies by such a weight itself goes past the sets.

    Args:
        base: a linear layer, which is frozen.
        sets: see `Sets`; "task" asks the route which set a row has.
        route: shared by all adapters of a model.

    Raises:
        ValueError: another layer.
    """

    rank: int

    def __init__(self, base: nn.Module, sets: Sets, route: Route) -> None:
        found = sizes(base)
        if found is None:
            raise ValueError(f"adapters go to linear layers, not {type(base).__name__}")
        super().__init__()
        self.in_features, self.out_features = found
        self.base = base.requires_grad_(False)
        self.sets: Sets = sets
        self.route = route
        self.pairs = nn.ModuleDict()
        self._begun: str | None = None

    @property
    def weight(self) -> Tensor:
        """The weight of the layer, without the sets."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer, without the sets."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @abstractmethod
    def new_pair(self) -> Pair:
        """Make a set."""

    @abstractmethod
    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """Choose what sets look at: what goes into the base, or what comes out of it."""

    def start(self) -> None:
        """Make the one set of "shared"."""
        if self.sets == "shared":
            self.set_of("shared")

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add a set for the task; where sets are summed, the earlier ones are frozen.

        Returns:
            The parameters of its set, also where that is there already, as one that was loaded is.

        Raises:
            ValueError: sets are summed, and the task's is frozen since a later one began.
        """
        if self.sets == "shared":
            return []
        name = str(task.id)
        if self.sets == "summed":
            is_newest([int(id) for id in self.pairs], task)
            for other, pair in self.pairs.items():
                if other != name:  # one that was loaded came without its task, and froze none
                    pair.requires_grad_(False)
        self._begun = name
        return self.set_of(name)

    def set_of(self, name: str) -> list[nn.Parameter]:
        """Give the parameters of a set, which is made if it is not there; no other is frozen."""
        if name not in self.pairs:
            like = next(self.base.parameters())
            self.pairs[name] = self.new_pair().to(like)
        return list(self.pairs[name].parameters())

    @property
    def newest(self) -> str | None:
        """The set of the task that began last; where none has, the last set there is."""
        names: list[str] = list(self.pairs)
        return self._begun or (names[-1] if names else None)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the base's output and add what the sets make."""
        y: Tensor = self.base(x)
        if self.sets == "task":
            return self._routed(x, y)
        x = self.seen(x, y)
        for pair in self.pairs.values():
            y = y + pair(x)
        return y

    def check_unmerged(self) -> None:
        """Raise `ValueError` where sets could not be exchanged now."""

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"rank={self.rank}, sets={self.sets!r}"

    def _routed(self, x: Tensor, y: Tensor) -> Tensor:
        route, seen = self.route, self.seen(x, y)
        pairs = [self.pairs[str(id)] for id in route.present]
        if not pairs or route.own is None:
            return y
        if route.alone:
            return y + pairs[0](seen)  # type: ignore[no-any-return]
        if len(seen) != len(route.own):
            raise ValueError(
                f"a layer received {len(seen)} rows of a batch of {len(route.own)}; sets by task "
                'need models whose layers keep rows first (or take sets="shared")'
            )
        if route.even:
            return y + _grouped(pairs, seen, route)
        # A set for each row costs a copy of it, all sets for each place costs their multiplication.
        many = seen.ndim > 2 and seen.shape[1:-1].numel() >= len(pairs)
        return y + (_picked if many else _masked)(pairs, seen, route.own)


class Routed(nn.Module):
    """A model whose adapters are told the task of each row of a batch, which may mix tasks.

    Rows of task -1 (not known), and all rows when task is None, are answered by the base alone.
    To know which sets are there, the ids are looked at once in each forward pass, which waits for
    a GPU. Two threads at a time need a copy each.

    Args:
        model: one with adapters; the task is passed on to it if it wants it.
        route: what its adapters look at.
    """

    def __init__(self, model: nn.Module, route: Route) -> None:
        super().__init__()
        self.model = model
        self.route = route

    @property
    def head(self) -> nn.Module:
        """The head of the model."""
        return head_of(self.model)

    @property
    def known(self) -> list[int]:
        """The tasks that there are sets for."""
        return sorted(int(id) for id in next(adapters(self.model))[1].pairs)

    def forward(self, *inputs: Any, task: Tensor | None = None, **named: Any) -> Any:
        """Compute the model's output; task is (rows,) int64."""
        if wants_task(self.model):
            named["task"] = task
        try:
            if task is not None:
                self.route.look(task, self.known)
            return self.model(*inputs, **named)
        finally:
            self.route.clear()


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Go over the adapters of a model, with the names that they have in it.

    The names are the same whether it is inside a `Routed` or not.
    """
    model = model.model if isinstance(model, Routed) else model
    return ((name, part) for name, part in model.named_modules() if isinstance(part, Adapter))


def sizes(layer: nn.Module) -> tuple[int, int] | None:
    """Tell how many inputs and outputs a linear layer has, None if it is none.

    Example:
        >>> sizes(nn.Linear(3, 2)), sizes(nn.ReLU())
        ((3, 2), None)
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if type(layer).__name__ == "Conv1D" and isinstance(layer.weight, Tensor):
        inputs, outputs = layer.weight.shape  # as transformers has it for GPT-2: y = x @ weight
        return inputs, outputs
    return None


def _grouped(pairs: list[Any], x: Tensor, route: Route) -> Tensor:
    """Bring each task's rows together, filled up to equally many, and multiply task by task."""
    assert route.own is not None
    rows, places = route.groups()

    def product(h: Tensor, layers: list[nn.Linear]) -> Tensor:
        outputs, inputs = layers[0].weight.shape
        weight = torch.cat([layer.weight for layer in layers]).view(-1, outputs, inputs)
        if not biased:
            return torch.bmm(h, weight.transpose(1, 2))
        bias = torch.cat([layer.bias for layer in layers]).view(-1, 1, outputs)
        return torch.baddbmm(bias, h, weight.transpose(1, 2))

    biased = pairs[0].down.bias is not None
    together = x.index_select(0, rows.flatten()).view(len(pairs), -1, x.shape[-1])
    h = pairs[0].between(product(together, [pair.down for pair in pairs]))
    y = product(h, [pair.up for pair in pairs]).view(rows.numel(), *x.shape[1:-1], -1)
    y = y.index_select(0, places)
    if sum(route.sizes or ()) == len(x):
        return y
    known = route.own.any(1).view(-1, *[1] * (x.ndim - 1))
    return torch.where(known, y, 0)


def _masked(pairs: list[Any], x: Tensor, own: Tensor) -> Tensor:
    """Compute all sets for each row and keep its own."""
    places = (len(own), *[1] * (x.ndim - 2), -1)
    biased = pairs[0].down.bias is not None
    h = F.linear(
        x,
        torch.cat([pair.down.weight for pair in pairs]),
        torch.cat([pair.down.bias for pair in pairs]) if biased else None,
    )
    shown = own.repeat_interleave(h.shape[-1] // len(pairs), 1).view(places)
    y = F.linear(pairs[0].between(h) * shown, torch.cat([pair.up.weight for pair in pairs], 1))
    if biased:
        y = y + (own.to(y.dtype) @ torch.stack([pair.up.bias for pair in pairs])).view(places)
    return y


def _picked(pairs: list[Any], x: Tensor, own: Tensor) -> Tensor:
    """Take each row's own set and multiply row by row."""
    index, known = own.long().argmax(1), own.any(1)[:, None, None]

    def of(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).index_select(0, index)

    biased = pairs[0].down.bias is not None
    h = torch.bmm(x.flatten(1, -2), of([pair.down.weight for pair in pairs]).transpose(1, 2))
    if biased:
        h = h + of([pair.down.bias for pair in pairs])[:, None]
    y = torch.bmm(pairs[0].between(h), of([pair.up.weight for pair in pairs]).transpose(1, 2))
    if biased:
        y = y + of([pair.up.bias for pair in pairs])[:, None]
    return torch.where(known, y, 0).view(*x.shape[:-1], -1)
