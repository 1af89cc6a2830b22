"""A head of its own for each task, frozen when the next one begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lifelong.core.task import TaskSpec
from lifelong.nets.by_task import each_task, is_newest
from lifelong.nets.heads import MASKED, needed_outputs


class TaskHeads(nn.Module):
    """Outputs for each task's classes, linear in the features; those of old tasks are frozen.

    logits of a row of task t: W_t f + b_t in the columns of the task's classes, MASKED elsewhere

    Labels stay global class ids. Unlike `MultiHead`, tasks that share classes share no outputs,
    and no optimizer moves an old task's outputs: its parameters no longer require gradients.

    Args:
        features: width of the input.

    Shapes: (rows, features) and task (rows,) int64 to (rows, classes so far). Rows of task -1
    (not known), and all rows when task is None, get the newest task's outputs.

    Raises:
        ValueError: `grow` with a task without classes, with a negative one, or with a task that
            is frozen or has other classes now.
        UnknownTask: called before it has grown, or with the id of a task it never grew for.

    Example:
        >>> head = TaskHeads(8)
        >>> [tuple(p.shape) for p in head.grow(TaskSpec(0, classes=(0, 1)))]
        [(2, 8), (2,)]
        >>> new = head.grow(TaskSpec(1, classes=(1, 2)))
        >>> logits = head(torch.zeros(2, 8), task=torch.tensor([0, 1]))
        >>> (logits > MASKED).int().tolist()
        [[1, 1, 0], [0, 1, 1]]
    """

    _like: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.blocks = nn.ModuleList()
        self.columns = Columns()
        # Holds nothing, but follows .to(), so that a block is born where the head is.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @property
    def classes(self) -> int:
        """How many outputs there are."""
        return self.columns.classes

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add outputs for the task's classes, and freeze those of the tasks before."""
        if not self.columns.add(task):
            return []
        self.blocks.requires_grad_(False)
        like, count = self._like, len(task.classes)
        block = nn.Linear(self.features, count, device=like.device, dtype=like.dtype)
        self.blocks.append(block)
        return list(block.parameters())

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Compute the logits of each row's own task."""

        def run(place: int, rows: Tensor | None) -> Tensor:
            logits = self.blocks[place](x if rows is None else x[rows])
            return self.columns.spread(logits, place)

        return each_task(task, self.columns.ids, run)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.features}, classes={self.classes}"


class Columns(nn.Module):
    """Which columns the outputs of each task belong into.

    Attributes:
        ids: of the tasks, in order.
        classes: how many columns there are.

    Example:
        >>> columns = Columns()
        >>> columns.add(TaskSpec(5, classes=(1, 3)))
        True
        >>> (columns.spread(torch.ones(1, 2), place=0) > MASKED).int().tolist()
        [[0, 1, 0, 1]]
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[int] = []
        self.classes = 0
        self._latest: tuple[int, ...] = ()

    def add(self, task: TaskSpec) -> bool:
        """Make room for a task's classes; False if that has been done just before.

        Raises:
            ValueError: the task has no classes or a negative one, is frozen, or has others now.
        """
        needed = needed_outputs(task)
        if is_newest(self.ids, task):
            if not {*task.classes} <= {*self._latest}:
                raise ValueError(
                    f"task {task.id} has begun with classes {list(self._latest)}, and now has "
                    f"{list(task.classes)}; begin another task for those it lacks"
                )
            return False
        # Not saved: what a model has grown for says it.
        columns = torch.tensor(task.classes)
        device = getattr(self, f"task{len(self.ids) - 1}").device if self.ids else None
        self.register_buffer(f"task{len(self.ids)}", columns.to(device), persistent=False)
        self.ids.append(task.id)
        self.classes = max(self.classes, needed)
        self._latest = task.classes
        return True

    def spread(self, logits: Tensor, place: int) -> Tensor:
        """Put a task's outputs into its columns, (rows, classes); the others are MASKED."""
        wide = logits.new_full((len(logits), self.classes), MASKED)
        return wide.index_copy(1, getattr(self, f"task{place}").to(logits.device), logits)
