"""Putting adapters into a model, and telling them the task of each row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Self

from torch import Tensor, nn

from lifelong.core.features import head_of
from lifelong.nets.adapters import Adapter, Routed, Sets, adapters, sizes
from lifelong.nets.attention import Attention
from lifelong.nets.gated import Gated
from lifelong.nets.route import Route
from lifelong.nets.task_weights import TaskWeights


def adapt(
    model: nn.Module,
    make: Callable[[nn.Module, Route], Adapter],
    *,
    match: str | None,
    sets: Sets,
    head: bool | str,
) -> nn.Module:
    """Freeze a model but for its head, and put adapters in the place of its linear layers.

    Raises:
        ValueError: no layer is there or matches, it has adapters already or weights that depend on
            the task, sets are unknown, or what the head learns is tied to the rest; or there is no
            such head, or match is no regular expression.
    """
    if sets not in ("shared", "summed", "task"):
        raise ValueError(f"sets is {sets!r}; choose 'shared', 'summed' or 'task'")
    if any(adapters(model)):
        raise ValueError(f"this {type(model).__name__} has adapters already; give a plain model")
    _check_unmasked(model)
    _check_match(match)
    own = _head(model, head)
    kept = set() if own is None else set(own.modules())
    learning = set() if own is None else {p for p in own.parameters() if p.requires_grad}
    chosen = _chosen(model, kept, match)
    _check_untied(model, kept, learning)
    if sets == "task" and any(getattr(m, "batch_first", True) is False for m in model.modules()):
        raise ValueError(
            "sets by task need rows first; make the attention with batch_first=True, or take "
            'sets="shared"'
        )
    parted = {m: Attention.of(m) for m in chosen if isinstance(m, nn.MultiheadAttention)}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in learning)
    root = nn.ModuleDict({"model": model})
    _replace(root, {m: attention.requires_grad_(False) for m, attention in parted.items()})
    route = Route()
    layers = {m for name, m in _linear(root["model"]) if m not in kept and _fits(match, name)}
    _replace(root, {m: make(m, route) for m in layers})
    norms = [m for m in root.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    _replace(root, {m: Still(m) for m in norms if m not in kept and m.running_mean is not None})
    _leave_fast_path(root)
    return Routed(root["model"], route) if sets == "task" else root["model"]


class Still(nn.Module):
    """Keep a layer in eval mode: what normalises by running statistics, in a frozen model.

    Example:
        >>> Still(nn.BatchNorm1d(2)).train().norm.training
        False
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module alone."""
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(x)  # type: ignore[no-any-return]


def _head(model: nn.Module, head: bool | str) -> nn.Module | None:
    """Find what goes on learning: by its name, or as `head_of` does; None where nothing shall."""
    if not any(sizes(m) or isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        raise ValueError(f"{type(model).__name__} has no linear layer; adapters need one")
    if head is False:
        return None
    last = ", ".join([name for name, _ in _linear(model)][-8:])
    try:
        return model.get_submodule(head) if isinstance(head, str) else head_of(model)
    except (AttributeError, ValueError):
        told = f"head is {head!r}, and {type(model).__name__} has no such module"
        raise ValueError(
            f"{told}; name another (its last linear layers: {last}), or take head=False, so that "
            "nothing of the base learns"
        ) from None


def _check_unmasked(model: nn.Module) -> None:
    """Raise where a network reads weights off its layers, which adapters take the place of."""
    for module in model.modules():
        if isinstance(module, TaskWeights | Gated):
            kind = type(module).__name__
            way = "leave one of the two out"
            if isinstance(module, TaskWeights):
                way = f"put them into the model first, as in {kind}(add_lora(model)), or {way}"
            raise ValueError(
                f"{kind} computes with weights of the task, and adapters cannot go into it; {way}"
            )


def _check_match(match: str | None) -> None:
    try:
        re.compile(match or "")
    except re.error as error:
        raise ValueError(
            f"match is {match!r}, which is no regular expression ({error}); escape what stands for "
            "itself: re.escape(name)"
        ) from None


def _linear(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, m) for name, m in model.named_modules() if sizes(m) is not None)


def _fits(match: str | None, name: str) -> bool:
    return match is None or re.search(match, name) is not None


def _chosen(model: nn.Module, kept: set[nn.Module], match: str | None) -> list[nn.Module]:
    """List the layers to adapt, and the attention that has some; raise without any."""
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            parts = ("query", "key", "value", "out")
            found |= {".".join(filter(None, (name, part))): module for part in parts}
            inside |= set(module.modules())
        elif sizes(module) is not None and module not in inside:
            found[name] = module
    found = {name: module for name, module in found.items() if module not in kept}
    chosen = [module for name, module in found.items() if _fits(match, name)]
    if not chosen:
        told = "beside its head; take head=False, which adapts the head, too"
        if found:
            told = f"that matches {match!r}; its layers: {', '.join([*found][:8])}"
        raise ValueError(f"{type(model).__name__} has no linear layer {told}")
    return chosen


def _check_untied(model: nn.Module, kept: set[nn.Module], learning: set[nn.Parameter]) -> None:
    for name, module in model.named_modules():
        if module not in kept and not learning.isdisjoint(module.parameters(recurse=False)):
            raise ValueError(
                f"{name} has a weight of the head (they are tied) and would learn with it, though "
                "it is to stay as it is; take head=False, which freezes and adapts the head, too"
            )


def _replace(root: nn.Module, made: dict[Any, Any]) -> None:
    """Put modules in the place of others, wherever those are used."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child in made and parent is not made[child]:
                parent._modules[name] = made[child]


def _leave_fast_path(root: nn.Module) -> None:
    """Let torch's encoder layers call their parts, of which a fused kernel takes the weights."""
    for module in root.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
