"""A network whose units open and close with the task: hard attention."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.task import TaskSpec
from lifelong.nets.by_task import each_task, is_newest
from lifelong.nets.stages import Layer, Stage, features_of, stages_of
from lifelong.nets.task_heads import TaskHeads


class Gated(nn.Module):
    """Multiply each layer's units by gates of the task, and hold what old tasks' open gates use.

    h_l = a_l * f(W_l h_{l-1} + b_l), a_l = sigmoid(slope * e_l) while the newest task trains, else
    [e_l > 0];  w_ij is held where both units were open, and b_i where unit i was, in an old task
    Serra et al. 2018, arXiv:1801.01423 (HAT); the strategy `HAT` anneals the slope.

    The paper's gates of old tasks are sigmoid(400 e): nearly, but not exactly, 0 or 1, and so is
    what they let through of later steps. Here they are 0 or 1, and what is held is read from
    tensors that do not learn (`kept`), as is the bias: no momentum, weight decay or Adam moves
    it, and outputs for old tasks stay the same, bit for bit. Outside training the newest task's
    gates are 0 or 1 as well. Each weight takes 4 bytes more, each unit 4 bytes a task.

    Args:
        backbone: an `MLP`, a `SmallCNN`, or an `nn.Sequential` that begins with a layer with
            weights (a linear one behind `nn.Flatten`) and ends in features. All channels of a map
            share a gate.
        front: what comes first, such as `Pixels`, or None; frozen from the second task on, and in
            eval mode, so that norms in it keep the first task's statistics.

    Attributes:
        slope: of the gates in training, a tensor of one number.

    Shapes: x (rows, ...) and task (rows,) int64 to (rows, classes so far), MASKED where classes
    are not the task's. Rows of task -1, and all where task is None, are the newest task's.

    Raises:
        ValueError: a backbone that is no sequence, or has norms, whose statistics tasks would
            share, or grouped convolutions; `grow` with a task without classes, or a frozen one.
        UnknownTask: called before it has grown, or with the id of a task it never grew for.

    Example:
        >>> from lifelong.nets import MLP
        >>> net = Gated(MLP(4, hidden=(8, 6)))
        >>> [tuple(p.shape) for p in net.grow(TaskSpec(0, classes=(0, 1)))]
        [(8,), (6,)]
        >>> net.head.grow(TaskSpec(0, classes=(0, 1)))[0].shape, net(torch.zeros(3, 4)).shape
        (torch.Size([2, 6]), torch.Size([3, 2]))
    """

    slope: Tensor

    taught_by: ClassVar[str] = "HAT"
    rewrites: ClassVar[bool] = True  # what is kept of old tasks

    def __init__(self, backbone: nn.Module, front: nn.Module | None = None) -> None:
        super().__init__()
        stages = stages_of(backbone)
        self.features = features_of(stages)
        _check(stages)
        self.front = nn.Identity() if front is None else front
        # What is in these lists has types of its own, which a ModuleList does not tell.
        self.stages: list[Stage] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.head = TaskHeads(self.features)
        self.ids: list[int] = []
        self.embeddings: list[nn.ParameterList] = nn.ModuleList()  # type: ignore[assignment]
        kept = nn.ModuleList(_Kept(stage.layer) for stage in stages)
        self.kept: list[_Kept] = kept  # type: ignore[assignment]
        self.register_buffer("slope", torch.ones(1))

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Hold what the newest task uses, and draw gates for the one that begins."""
        if is_newest(self.ids, task):
            return []
        if self.ids:
            self._hold()
            self.embeddings[-1].requires_grad_(False)
            self.front.requires_grad_(False)
        like = self.stages[0].layer.weight
        drawn = [torch.randn(stage.units).to(like) for stage in self.stages]
        new = nn.ParameterList(nn.Parameter(values) for values in drawn)
        self.embeddings.append(new)
        self.ids.append(task.id)
        self.train(self.training)
        return list(new)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; after the first task, the front stays in eval mode."""
        super().train(mode)
        if len(self.ids) > 1:
            self.front.eval()
        return self

    @property
    def newest(self) -> list[nn.Parameter]:
        """The embeddings of the newest task, one a stage."""
        return list(self.embeddings[-1]) if len(self.embeddings) else []

    def gates(self, place: int) -> list[Tensor]:
        """The gates of the task at a place among all, one a stage: (units,)."""
        embeddings = list(self.embeddings[place])
        if self.training and place == len(self.ids) - 1:
            return [torch.sigmoid(self.slope * e) for e in embeddings]
        return [(e > 0).to(e.dtype) for e in embeddings]

    def usage(self) -> Tensor:
        """Compute how much of what old tasks leave free the newest opens, from 0 to 1.

        R = sum of a_l (1 - used_l) / sum of (1 - used_l), over all units
        """
        free = [1 - kept.used.to(kept.weight.dtype) for kept in self.kept]
        opened = [a @ f for a, f in zip(self.gates(len(self.ids) - 1), free, strict=True)]
        return torch.stack(opened).sum() / torch.cat(free).sum().clamp(min=1)

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Compute the logits of each row's own task."""
        x = self.front(x)

        def run(place: int, rows: Tensor | None) -> Tensor:
            h, before = x if rows is None else x[rows], None
            for stage, kept, gate in zip(self.stages, self.kept, self.gates(place), strict=True):
                weight, bias = kept.effective(stage.layer, before)
                h = stage.after(_applied(stage.layer, stage.before(h), weight, bias))
                h, before = h * gate.view(-1, *[1] * (h.ndim - 2)), kept.used
            own = task if task is None or rows is None else task[rows]
            logits: Tensor = self.head(h, own)
            return logits

        return each_task(task, self.ids, run)

    @torch.no_grad()
    def _hold(self) -> None:
        """Hold the weights and biases between all units that tasks up to the newest have used."""
        before = None
        for stage, kept in zip(self.stages, self.kept, strict=True):
            kept.take(*kept.effective(stage.layer, before))
            before = kept.used.clone()
        for kept, embedding in zip(self.kept, self.newest, strict=True):
            kept.used.logical_or_(embedding > 0)


class _Kept(nn.Module):
    """What of a stage's layer is held, and which of its units old tasks have used."""

    used: Tensor
    bias: nn.Parameter | None

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(layer.weight), requires_grad=False)
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(torch.zeros_like(layer.bias), requires_grad=False)
        self.register_buffer("used", torch.zeros_like(layer.weight.flatten(1)[:, 0]).bool())

    def effective(self, layer: Layer, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the layer computes with; `before` says which units of the stage before are used."""
        held = self.used[:, None]
        if before is not None:
            # A map's units stand side by side after a flattening.
            held = held & before.repeat_interleave(layer.weight.shape[1] // len(before))
        held = held.view(*held.shape, *[1] * (layer.weight.ndim - 2))
        weight = torch.where(held, self.weight, layer.weight)
        if self.bias is None or layer.bias is None:
            return weight, None
        return weight, torch.where(self.used, self.bias, layer.bias)

    def take(self, weight: Tensor, bias: Tensor | None) -> None:
        """Copy what the layer computes with now."""
        self.weight.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)


def _applied(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return layer._conv_forward(x, weight, bias)  # type: ignore[no-any-return]


def _check(stages: list[Stage]) -> None:
    for stage in stages:
        if getattr(stage.layer, "groups", 1) > 1:
            raise ValueError(f"{stage.layer} has groups; gates need units that are not grouped")
        for module in stage.after.modules():
            if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                raise ValueError(
                    f"{type(module).__name__} would share its parameters or statistics among all "
                    "tasks; leave it out of a gated network"
                )
