"""Supermasks: a network of random weights that never learn, and a mask of them for each task."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lifelong.nets.task_weights import TaskWeights


class Supermasks(TaskWeights):
    """Learn for each task which weights of a fixed, random network to use.

    W_t = W * M_t, M_t = [score > 0], or the share of largest scores in each layer; the gradient
    passes M as if it were the scores
    Wortsman et al. 2020, arXiv:2006.14769 (SupSup), with the edge-popup of Ramanujan et al. 2019,
    arXiv:1911.13299.

    Weights are +c or -c, c = sqrt(2 / inputs) of a unit, as the authors make them; with a share,
    c = sqrt(2 / (share * inputs)), as so many less of them are used. Biases are 0. What else
    there is does not learn either, and modules with buffers stay in eval mode; layers that come
    later, such as a task's own outputs, learn while that task is the newest. One set of scores
    serves all tasks: when the next begins, the mask is kept in a byte a weight, and the scores go
    on from where they are. Masks of old tasks never change, so their outputs stay the same, bit for
    bit. Guessing the task from the entropy of the outputs, the paper's other part, is not here: the
    task must be told.

    Args:
        model: any module with linear or convolution layers, and without norms that keep statistics.
            A head that multiplies by more outputs at once as it grows (`GrowingHead`, `MultiHead`,
            `CosineHead`) rounds otherwise then: old outputs stay the same but for that.
        share: of the weights in each layer that a task uses, above 0 and below 1; None for those
            with scores above 0, as in the authors' MNIST notebook.

    Shapes: those of the model; task (rows,) int64. Rows of task -1, and all where task is None, are
    the newest task's.

    Raises:
        ValueError: a share out of range, a model without layers or with norms that keep
            statistics; `grow` with a task that is frozen.
        UnknownTask: called before it has grown, or with the id of a task it never grew for.

    Example:
        >>> from lifelong.core.task import TaskSpec
        >>> net = Supermasks(nn.Linear(8, 4), share=0.25)
        >>> new = net.grow(TaskSpec(0))
        >>> int((net.weights(0)["weight"] != 0).sum())
        8
    """

    def __init__(self, model: nn.Module, share: float | None = None) -> None:
        super().__init__(model, learning=False)
        if share is not None and not 0 < share < 1:
            raise ValueError(f"share is {share}; it must lie between 0 and 1, or be None")
        norms = [m for m in model.modules() if isinstance(m, _NormBase)]
        if odd := [norm for norm in norms if norm.running_mean is not None]:
            raise ValueError(
                f"tasks would share the statistics of {odd[0]}; take a norm that keeps none, such "
                "as nn.LayerNorm, or the same with track_running_stats=False"
            )
        self.share = share
        self.masks = 0
        """How many tasks' masks are kept."""
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.data.zero_()
        for number, weight in enumerate(self.own()):
            inputs = weight[0].numel()
            weight.data.copy_(
                torch.where(weight < 0, -1.0, 1.0) * math.sqrt(2 / (inputs * (share or 1.0)))
            )
            scores = torch.empty_like(weight)
            nn.init.kaiming_uniform_(scores, a=math.sqrt(5))
            self.register_parameter(f"scores{number}", nn.Parameter(scores))

    def weights(self, place: int) -> dict[str, Tensor]:
        """By name, the weights of a task: those that its mask lets through."""
        found = {}
        for number, (name, weight) in enumerate(zip(self.names, self.own(), strict=True)):
            if place < self.masks:
                mask = self.get_parameter(f"mask{place}_{number}").to(weight.dtype)
            else:
                scores = self.get_parameter(f"scores{number}")
                # The value is the mask's, the gradient the scores'.
                mask = self._mask(scores.detach()).to(weight.dtype) + (scores - scores.detach())
            found[name] = weight * mask
        return found

    @property
    def settled(self) -> bool:
        """Always: there is no task from which anything but masks and outputs learns."""
        return True

    @torch.no_grad()
    def begin(self) -> None:
        """Keep the masks of the newest task, and freeze its outputs."""
        if not self.ids:
            return
        self.model.requires_grad_(False)  # outputs of the task that begins are not there yet
        for number in range(len(self.names)):
            mask = self._mask(self.get_parameter(f"scores{number}"))
            kept = nn.Parameter(mask, requires_grad=False)
            self.register_parameter(f"mask{self.masks}_{number}", kept)
        self.masks += 1

    def _mask(self, scores: Tensor) -> Tensor:
        if self.share is None:
            return scores > 0
        count = max(1, round(self.share * scores.numel()))
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask.view(-1)[scores.flatten().topk(count).indices] = True
        return mask
