"""Progressive networks: a column for each task, which looks at the frozen ones before it."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.task import TaskSpec
from lifelong.nets.by_task import each_task
from lifelong.nets.stages import Layer, Stage, features_of, stages_of
from lifelong.nets.task_heads import Columns


class Progressive(nn.Module):
    """Learn each task in a column of its own that also reads the columns before, now frozen.

    h_i = f(W_i h_{i-1} + U_i relu(V_i [a_j h_{i-1}^j for the columns j before])), i > 1
    Rusu et al. 2016, arXiv:1606.04671, with the paper's adapter that is not linear (an MLP of one
    hidden layer; 1x1 convolutions V between convolutions), for every layer after the first, the
    outputs too. As in the paper the a_j are learned numbers that start small, V keeps the width of
    the layer's input unless `adapter` says otherwise, and only U has no bias.

    When a task begins, the columns so far are frozen for good: no gradients, and norms keep their
    statistics. So outputs for old tasks stay the same, bit for bit. The task must be told; the
    number of parameters grows with the square of the number of tasks.

    Args:
        backbone: the first column: an `MLP`, a `SmallCNN`, or an `nn.Sequential` that begins with
            a layer with weights (a linear one behind `nn.Flatten`) and ends in features. Later
            columns are like it, drawn anew, with the buffers that it has now; they learn even if
            it is frozen.
        front: what comes first, such as `Pixels`, or None; frozen with the first column.
        adapter: the width of the adapters' hidden layer; None for that of the layer's input.

    Shapes: x (rows, ...) and task (rows,) int64 to (rows, classes so far), MASKED where classes
    are not the task's. Rows of task -1, and all where task is None, are the newest task's.

    Raises:
        ValueError: a backbone that is no sequence, an adapter without width; `grow` with a task
            without classes, or one that is frozen.
        UnknownTask: called before it has grown, or with the id of a task it never grew for.

    Example:
        >>> from lifelong.nets import MLP
        >>> net = Progressive(MLP(4, hidden=(8, 6)))
        >>> [len(net.grow(TaskSpec(task, classes=(0, 1)))) for task in range(3)]
        [2, 14, 14]
        >>> net(torch.zeros(3, 4), task=torch.tensor([0, 2, 1])).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, backbone: nn.Module, front: nn.Module | None = None, *, adapter: int | None = None
    ) -> None:
        super().__init__()
        if adapter is not None and adapter < 1:
            raise ValueError(f"adapter is {adapter}; it must be 1 or more, or None")
        stages = stages_of(backbone)
        self.features = features_of(stages)
        for module in backbone.modules():
            own = next(module.parameters(recurse=False), None)
            if own is not None and not hasattr(module, "reset_parameters"):
                raise ValueError(
                    f"{type(module).__name__} has no reset_parameters, so no second column can be "
                    "drawn; give it such a method"
                )
        self.adapter = adapter
        self.front = nn.Identity() if front is None else front
        plan = copy.deepcopy(Column(stages))
        self._first_buffers = dict(plan.named_buffers(remove_duplicate=False))
        # The shape of a column, without its weights.
        self._plan = (plan.to("meta"),)
        # What is in these lists has types of its own, which a ModuleList does not tell.
        self.columns: list[Column] = nn.ModuleList([Column(stages)])  # type: ignore[assignment]
        self.outputs = Columns()

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add outputs, and from the second task on a column; freeze what there was."""
        if not self.outputs.add(task):
            return []
        old = {id(p) for p in self.parameters()}
        if len(self.outputs.ids) > 1:
            self.requires_grad_(False)
            self.columns.append(self._new_column())
        self.columns[-1].answer(len(task.classes), self.adapter)
        self.train(self.training)
        return [p for p in self.parameters() if id(p) not in old]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the newest column; what is frozen stays in eval mode."""
        super().train(mode)
        if len(self.columns) > 1:
            self.front.eval()
            for column in self.columns[:-1]:
                column.eval()
        return self

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Compute the logits of each row's own task."""
        x = self.front(x)

        def run(place: int, rows: Tensor | None) -> Tensor:
            lower: list[list[Tensor]] = []
            for column in self.columns[: place + 1]:
                *seen, output = column(x if rows is None else x[rows], lower)
                lower.append(seen)
            return self.outputs.spread(output, place)

        return each_task(task, self.outputs.ids, run)

    def _new_column(self) -> Column:
        like = next(self.parameters())
        column = copy.deepcopy(self._plan[0]).to_empty(device=like.device).to(like.dtype)
        for name, buffer in self._first_buffers.items():
            column.get_buffer(name).copy_(buffer)
        column.requires_grad_(True)  # what is drawn anew learns, even if the first is frozen
        for module in column.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        column.look_at(len(self.columns), self.adapter)
        return column


class Column(nn.Module):
    """The stages of one task, and the adapters through which they read the columns before.

    Example:
        >>> column = Column([Stage(nn.Linear(4, 3), [nn.ReLU()])])
        >>> column.answer(2)
        >>> [tuple(h.shape) for h in column(torch.zeros(5, 4), [])]
        [(5, 4), (5, 3), (5, 2)]
    """

    def __init__(self, stages: list[Stage]) -> None:
        super().__init__()
        self.stages: list[Stage] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.adapters = nn.ModuleList()
        self.before = 0

    def look_at(self, columns: int, width: int | None = None) -> None:
        """Read so many columns before this one."""
        self.before = columns
        for stage in self.stages[1:]:
            self.adapters.append(Adapter(stage.layer, columns, width))

    def answer(self, outputs: int, width: int | None = None) -> None:
        """Add the last stage, that of the outputs."""
        layer = nn.Linear(self.stages[-1].units, outputs).to(self.stages[-1].layer.weight)
        self.stages.append(Stage(layer))
        if self.before:
            self.adapters.append(Adapter(layer, self.before, width))

    def forward(self, x: Tensor, lower: list[list[Tensor]]) -> list[Tensor]:
        """Compute what each stage's layer is given, and at last the output.

        Args:
            x: the rows.
            lower: what the layers of each column before were given for them.
        """
        seen = []
        for number, stage in enumerate(self.stages):
            x = stage.before(x)
            seen.append(x)
            x = stage.layer(x)
            if self.before and number:
                x = x + self.adapters[number - 1]([column[number] for column in lower])
            x = stage.after(x)
        return [*seen, x]


class Adapter(nn.Module):
    """What a layer reads of the columns before: U relu(V [a_j h_j]).

    Example:
        >>> adapter = Adapter(nn.Linear(4, 3), columns=2)
        >>> adapter([torch.zeros(5, 4), torch.zeros(5, 4)]).shape
        torch.Size([5, 3])
    """

    def __init__(self, layer: Layer, columns: int, width: int | None = None) -> None:
        super().__init__()
        like = layer.weight
        self.scale = nn.Parameter(0.1 * torch.rand(columns).to(like))
        self.down: nn.Module
        self.up: nn.Module
        if isinstance(layer, nn.Linear):
            width = width or layer.in_features
            self.down = nn.Linear(columns * layer.in_features, width)
            self.up = nn.Linear(width, layer.out_features, bias=False)
        else:
            width = width or layer.in_channels
            self.down = nn.Conv2d(columns * layer.in_channels, width, 1)
            shape = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            alike: dict[str, Any] = {name: getattr(layer, name) for name in shape}
            self.up = nn.Conv2d(width, layer.out_channels, bias=False, **alike)
        self.to(like)

    def forward(self, lower: list[Tensor]) -> Tensor:
        """Read what the same layer of each column before was given, (rows, ...) each."""
        x = torch.cat([scale * h for scale, h in zip(self.scale, lower, strict=True)], 1)
        return self.up(F.relu(self.down(x)))  # type: ignore[no-any-return]
