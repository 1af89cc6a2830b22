"""A network into which tasks are packed: each owns weights that no other changes."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn

from lifelong.nets.task_weights import TaskWeights

MOST = 255
"""How many tasks an owner's byte can tell apart."""


class Packed(TaskWeights):
    """Let each task of a model see the weights that it and the tasks before it own, no others.

    W_t = W where owner <= t, else 0; the newest task learns the weights that it owns, alone
    Mallya & Lazebnik 2018, arXiv:1711.05769 (PackNet); the strategy `PackNet` prunes and retrains.

    When a task begins it takes over all weights that are free, drawn anew as torch draws them:
    from 0, a unit none of whose weights is owned would answer 0, and never learn. What earlier
    tasks own is copied into tensors that do not learn (`kept`), and read from there: momentum,
    weight decay and Adam cannot move it, so outputs for old tasks stay the same, bit for bit. As in
    the paper, what is no weight of a linear or convolution layer (biases, norms) learns from the
    first task alone. From then on modules with buffers are in eval mode, so that norms, for one,
    keep that task's statistics. Layers that come later, such as a task's own outputs, learn while
    that task is the newest. Weights that are frozen from the start belong to all tasks as they are.
    Each other one takes 5 bytes more: 4 for what is kept, 1 for the owner.

    Args:
        model: any module with such layers. Give it `TaskHeads` where tasks share classes: the
            outputs of other heads are packed too if they are there from the start, else frozen. A
            head that multiplies by more outputs at once as it grows (`GrowingHead`, `MultiHead`,
            `CosineHead`) rounds otherwise then: old outputs stay the same but for that.

    Shapes: those of the model; task (rows,) int64. Rows of task -1, and all where task is None, are
    the newest task's.

    Raises:
        ValueError: a model without such layers, or with frozen ones alone; `grow` with a task that
            is frozen, or for more than 255 tasks.
        UnknownTask: called before it has grown, or with the id of a task it never grew for.

    Example:
        >>> from lifelong.core.task import TaskSpec
        >>> net = Packed(nn.Linear(4, 2))
        >>> new = net.grow(TaskSpec(0))
        >>> net.prune(0.5)
        >>> net.free, net.owner0.sum().item()
        (4, 4)
    """

    taught_by: ClassVar[str] = "PackNet"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, learning=True)
        for number, weight in enumerate(self.own()):
            kept = nn.Parameter(torch.zeros_like(weight), requires_grad=False)
            self.register_parameter(f"kept{number}", kept)
            self.register_buffer(f"owner{number}", torch.zeros_like(weight, dtype=torch.uint8))

    @property
    def free(self) -> int:
        """How many weights no task owns; reading it waits for a GPU."""
        return sum(int((owner == 0).sum()) for _, _, owner in self._parts())

    @property
    def newest(self) -> int:
        """How many weights the newest task owns."""
        return sum(int((owner == len(self.ids)).sum()) for _, _, owner in self._parts())

    def weights(self, place: int) -> dict[str, Tensor]:
        """By name, the weights of a task: those that it and earlier ones own."""
        last = place == len(self.ids) - 1
        return {
            name: torch.where(owner == place + 1, weight, kept)
            if last
            else torch.where(owner <= place + 1, kept, 0.0)
            for name, (weight, kept, owner) in zip(self.names, self._parts(), strict=True)
        }

    @torch.no_grad()
    def begin(self) -> None:
        """Keep what the newest task owns, and give what is free to the one that begins."""
        place = len(self.ids)
        if place == MOST:
            raise ValueError(f"a packed network holds {MOST} tasks; begin a new one")
        for weight, kept, owner in self._parts():
            if place:
                kept.copy_(torch.where(owner == place, weight, kept))
                drawn = nn.init.kaiming_uniform_(torch.empty_like(weight), a=sqrt(5))
                weight.copy_(torch.where(owner == 0, drawn, weight))
            owner.masked_fill_(owner == 0, place + 1)
        if place:
            # Outputs of tasks before, too: those of the task that begins are not there yet.
            learning = {id(weight) for weight in self.own()}
            for parameter in self.model.parameters():
                if id(parameter) not in learning:
                    parameter.requires_grad_(False)

    @torch.no_grad()
    def prune(self, share: float) -> None:
        """Free this share of the newest task's weights in each layer, the smallest ones."""
        for weight, _, owner in self._parts():
            own = owner == len(self.ids)
            size = weight.abs().masked_fill(~own, torch.inf).flatten()
            count = round(share * int(own.sum()))
            owner.view(-1)[size.topk(count, largest=False).indices] = 0

    def _parts(self) -> list[tuple[nn.Parameter, nn.Parameter, Tensor]]:
        return [
            (weight, self.get_parameter(f"kept{n}"), self.get_buffer(f"owner{n}"))
            for n, weight in enumerate(self.own())
        ]
