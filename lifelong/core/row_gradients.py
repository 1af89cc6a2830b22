"""Powers of the gradients of single rows, added up over batches, for any model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lifelong.core.batch import Batch
from lifelong.core.closed_forms import Power, add_row_powers, has_closed_form, rows_first
from lifelong.core.forward import forward, wants_task
from lifelong.core.row_by_row import Sums, looped_row_powers, vmapped_row_powers

RowsLoss: TypeAlias = Callable[[Tensor, Batch], Tensor | Iterable[Tensor]]
"""(output, batch) -> (rows,) losses, or an iterable of several such."""

_CHECKED_ROWS = 8


@dataclass(frozen=True, slots=True)
class _Use:
    """One call of a module: its input and where the gradient of its output can be asked for."""

    x: Tensor
    output: GradientEdge


class RowMoments:
    """Sums of |g_n|**power over rows n, where g_n is the gradient of row n's own loss.

    Closed forms hold for a module that is called once, on inputs with rows first, and whose
    parameters serve nothing else. Shapes and types cannot prove that, so a few rows do: with
    random weights w_n, the module's sum of w_n g_n must equal autograd's gradient of the sum of
    w_n score_n, where the score is the loss plus a random projection of the output. It fails if
    a parameter is also used elsewhere or if the first dimension holds anything but the rows.
    Whatever fails goes through vmap. This is redone whenever other modules take part in a batch.

    Attributes:
        sums: by parameter name, the sum over all rows so far.
        rows: how many rows so far.
    """

    def __init__(self, model: nn.Module, rows_loss: RowsLoss, power: Power) -> None:
        _refuse_coupled_rows(model)
        self.model, self.rows_loss, self.power = model, rows_loss, power
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.sums: Sums = {
            name: torch.zeros_like(
                parameter,
                dtype=torch.promote_types(parameter.dtype, torch.float32),
                requires_grad=False,
                memory_format=torch.contiguous_format,
            )
            for name, parameter in self.parameters.items()
        }
        self.rows = 0
        self._modules = _closed_modules(model, self.parameters)
        self._proven: dict[tuple[int, frozenset[nn.Module]], set[str]] = {}
        self._wants_task = wants_task(model)
        self._vmap_works = True

    def add(self, batch: Batch) -> None:
        """Add the rows of a batch; the model must be `undisturbed`."""
        self.rows += len(batch)
        if not self.parameters:
            return
        batch = batch.to(next(iter(self.parameters.values())).device)
        output, uses = self._run(batch)
        closed = self._closed(batch, uses)
        uses = {m: use for m, use in uses.items() if closed & set(self._modules[m].values())}
        rest = [name for name in self.parameters if name not in closed]
        edges = [use.output for use in uses.values()]
        targets = edges + [get_gradient_edge(self.parameters[name]) for name in rest]
        total: Sums = {}
        for losses in self._losses(output, batch):
            if not losses.requires_grad:
                continue
            found = grad(losses.sum(), targets, retain_graph=True, allow_unused=True)
            for (module, use), delta in zip(uses.items(), found, strict=False):
                if delta is not None:
                    self._add_closed(module, use.x, delta, closed)
            for name, gradient in zip(rest, found[len(edges) :], strict=True):
                if gradient is not None:
                    total[name] = total.get(name, 0) + gradient.to_dense()
        if total:
            self._add_rest(batch, total)

    def _run(self, batch: Batch) -> tuple[Tensor, dict[nn.Module, _Use]]:
        """Call the model; note each module with a closed form that was called just once."""
        uses: dict[nn.Module, _Use] = {}
        calls: Counter[nn.Module] = Counter()

        def note(
            module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> None:
            calls[module] += 1
            if len(args) == 1 and not named and output.requires_grad:
                x = args[0].detach()
                if rows_first(module, x, output, len(batch)):
                    # The edge, not the output itself, which an in-place ReLU may overwrite.
                    uses[module] = _Use(x, get_gradient_edge(output))

        hooks = [m.register_forward_hook(note, with_kwargs=True) for m in self._modules]
        try:
            output = self._forward(self.model, batch)
        finally:
            for hook in hooks:
                hook.remove()
        return output, {module: use for module, use in uses.items() if calls[module] == 1}

    def _forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return forward(model, batch.x, batch.task if self._wants_task else None)

    def _losses(self, output: Tensor, batch: Batch) -> Iterator[Tensor]:
        given = self.rows_loss(output, batch)
        for losses in [given] if isinstance(given, Tensor) else given:
            if losses.shape != (len(batch),):
                raise ValueError(
                    f"the loss has shape {tuple(losses.shape)}; it must give one value for each "
                    f"row, ({len(batch)},); use reduction='none'"
                )
            yield losses

    def _add_closed(self, module: nn.Module, x: Tensor, delta: Tensor, closed: set[str]) -> None:
        into = {own: self.sums[n] for own, n in self._modules[module].items() if n in closed}
        with torch.no_grad():
            add_row_powers(module, x, delta, self.power, into)

    def _closed(self, batch: Batch, uses: dict[nn.Module, _Use]) -> set[str]:
        """Name the parameters that closed forms are right for, proving it where that is due."""
        kind = (min(len(batch), _CHECKED_ROWS), frozenset(uses))
        if uses and kind not in self._proven:
            few = batch.rows(slice(_CHECKED_ROWS))
            output, tried = self._run(few)
            if not tried.keys() >= uses.keys():  # a task's own head, in later rows only
                few = batch
                output, tried = self._run(few)
            self._proven[kind] = self._prove(few, output, {m: tried[m] for m in uses})
        return self._proven.get(kind, set())

    def _prove(self, batch: Batch, output: Tensor, uses: dict[nn.Module, _Use]) -> set[str]:
        random = torch.Generator().manual_seed(0)
        weight = torch.randn(len(batch), generator=random).to(output)
        scores = self._scores(batch, output, random)
        proven = {name for module in uses for name in self._modules[module].values()}
        if not scores.requires_grad:
            return set()
        edges = [use.output for use in uses.values()]
        deltas = grad(scores.sum(), edges, retain_graph=True, allow_unused=True)
        truth = self._gradients((weight * scores).sum(), sorted(proven))
        scale = torch.stack([gradient.norm() for gradient in truth.values()]).max()
        for (module, use), delta in zip(uses.items(), deltas, strict=True):
            mine = _weighted_gradient(module, self._modules[module], use.x, delta, weight)
            proven -= {name for name in mine if not _agree(mine[name], truth[name], scale)}
        return proven

    def _scores(self, batch: Batch, output: Tensor, random: torch.Generator) -> Tensor:
        """Give each row's loss plus a projection of its output, (rows,), evenly matched.

        The loss alone may be flat, as a learned task's is; the output alone misses what the loss
        does with parameters by itself.
        """
        flat = output.reshape(len(batch), -1)
        scores = flat @ torch.randn(flat.shape[1], generator=random).to(output)
        loss = torch.stack(list(self._losses(output, batch))).sum(0)
        if not loss.requires_grad:
            return scores
        reach = None
        if output.requires_grad:
            (reach,) = grad(loss.sum(), [output], retain_graph=True, allow_unused=True)
        slope = loss.new_ones(()) if reach is None else reach.norm()
        return scores + loss * (slope / sqrt(output.numel())).reciprocal().clamp(max=1e6)

    def _gradients(self, value: Tensor, names: list[str]) -> Sums:
        if not names:
            return {}
        found = grad(
            value, [self.parameters[n] for n in names], retain_graph=True, allow_unused=True
        )
        return {
            name: torch.zeros_like(self.parameters[name])
            if gradient is None
            else gradient.to_dense()
            for name, gradient in zip(names, found, strict=True)
        }

    def _add_rest(self, batch: Batch, total: Sums) -> None:
        """Add the parameters without closed forms, of which `total` is the summed gradient."""
        scored = _Scored(self, self.model)
        chosen: Sums = {f"model.{name}": self.parameters[name] for name in total}
        powers = self._vmapped(scored, chosen, batch, total) if self._vmap_works else None
        if powers is None:
            self._vmap_works = False
            powers = looped_row_powers(scored, chosen, batch, self.power)
        for name in total:
            self.sums[name].add_(powers[f"model.{name}"])

    def _vmapped(self, scored: _Scored, chosen: Sums, batch: Batch, total: Sums) -> Sums | None:
        try:
            powers, signed = vmapped_row_powers(scored, chosen, batch, self.power)
        except Exception:  # any kind: a model may do what vmap cannot follow; the loop can
            return None
        scale = max(gradient.norm() for gradient in total.values())
        for name, truth in total.items():
            # A parameter reached behind the model's back, through a reference, is not followed.
            if truth.isfinite().all() and not _agree(signed[f"model.{name}"], truth, scale):
                return None
        return powers


class _Scored(nn.Module):
    """The model and its loss as one module, so that both see parameters put in their place."""

    def __init__(self, moments: RowMoments, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.moments = moments

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        output = self.moments._forward(self.model, batch)
        return tuple(self.moments._losses(output, batch))


def _closed_modules(
    model: nn.Module, trainable: dict[str, nn.Parameter]
) -> dict[nn.Module, dict[str, str]]:
    """Map each module that may have a closed form to its parameters' names: own -> in the model."""
    names = {parameter: name for name, parameter in trainable.items()}
    owners = Counter(p for module in model.modules() for p in module.parameters(recurse=False))
    found: dict[nn.Module, dict[str, str]] = {}
    for module in model.modules():
        if has_closed_form(module):
            own = {
                key: names[parameter]
                for key, parameter in module.named_parameters()
                if parameter in names and owners[parameter] == 1
            }
            if own:
                found[module] = own
    return found


def _weighted_gradient(
    module: nn.Module, own: dict[str, str], x: Tensor, delta: Tensor | None, weight: Tensor
) -> Sums:
    """Sum weight_n g_n over the rows, as the closed forms take g_n from x and delta."""
    parameters = dict(module.named_parameters())
    if delta is None:
        return {name: torch.zeros_like(parameters[key]) for key, name in own.items()}
    weighted = delta * weight.to(delta).view(-1, *(1,) * (delta.ndim - 1))
    output = module.forward(x)
    found = grad(output, [parameters[key] for key in own], weighted, allow_unused=True)
    return {
        name: torch.zeros_like(parameters[key]) if gradient is None else gradient.to_dense()
        for (key, name), gradient in zip(own.items(), found, strict=True)
    }


def _agree(mine: Tensor, truth: Tensor, scale: Tensor) -> bool:
    """Tell whether `mine`, which is eaten, is `truth` but for rounding at the model's scale."""
    epsilon = torch.finfo(truth.dtype).eps
    error = mine.sub_(truth).norm()
    return bool(error <= 4 * epsilon**0.5 * truth.norm() + 16 * epsilon * scale)


def _refuse_coupled_rows(model: nn.Module) -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    for name, module in model.named_modules():
        if isinstance(module, kinds) and module.running_mean is None:
            raise ValueError(
                f"{name} has no running statistics, so that each row's loss depends on the other "
                "rows; use track_running_stats=True or GroupNorm"
            )
