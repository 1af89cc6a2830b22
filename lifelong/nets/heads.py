"""Last layers that grow with the classes of a stream. Label c is column c, in all of them."""

from __future__ import annotations

from contextlib import suppress
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.errors import UnknownTask
from lifelong.core.faults import HIDDEN
from lifelong.core.task import TaskSpec

MASKED = HIDDEN
"""What a masked output reads: its softmax weight is exactly 0, yet differences and squares of it
stay finite, so that stored logits can be compared. Exact in fp16 and bf16, where -1e4 or -inf
would round or turn a difference into NaN."""

FLOOR = 1e-3
"""The norm below which a cosine shrinks towards 0, so that features near zero get gradients that
even fp16 can hold; torch's own 1e-12 makes theirs explode, and is 0 in fp16."""


class GrowingHead(nn.Module):
    """One linear output for each class met so far, added in blocks as tasks bring classes.

    logits = features @ cat(block weights).T + cat(block biases)

    `grow` appends a block that brings the outputs up to the task's largest class; existing
    parameters are never touched, so an optimizer keeps their moments. The blocks are joined before
    multiplying: on an MLP step this takes a sixth (10 blocks) to a third (20) less time than
    multiplying by each. A block that has hooks, or that was replaced by another module such as an
    adapter, is called as a module of its own.

    Args:
        features: width of the input.

    Shapes: (rows, features) to (rows, classes so far).

    Raises:
        ValueError: `grow` with a task without classes, or with a negative one.
        UnknownTask: called before it has grown.

    Example:
        >>> head = GrowingHead(8)
        >>> [tuple(p.shape) for p in head.grow(TaskSpec(0, classes=(0, 1)))]
        [(2, 8), (2,)]
        >>> head(torch.zeros(5, 8)).shape
        torch.Size([5, 2])
        >>> new = head.grow(TaskSpec(1, classes=(2, 3, 4)))
        >>> head(torch.zeros(5, 8)).shape
        torch.Size([5, 5])
        >>> head.grow(TaskSpec(2, classes=(0, 4)))  # nothing it lacks
        []
    """

    _like: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.classes = 0
        self.blocks = nn.ModuleList()
        # Holds nothing, but follows .to(), so that a block is born where the head is.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add outputs up to the task's largest class; return the new block's parameters."""
        lacking = needed_outputs(task) - self.classes
        if lacking <= 0:
            return []
        like = self._like
        block = nn.Linear(self.features, lacking, device=like.device, dtype=like.dtype)
        self.blocks.append(block)
        self.classes += lacking
        return list(block.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of every class so far."""
        blocks = list(self.blocks)
        if not blocks:
            raise ungrown(self)
        if len(blocks) == 1:
            return blocks[0](x)  # type: ignore[no-any-return]
        plain = [block for block in blocks if _is_plain(block)]
        if len(plain) < len(blocks):
            return torch.cat([block(x) for block in blocks], dim=-1)
        weight = torch.cat([block.weight for block in plain])  # (classes, features)
        return F.linear(x, weight, torch.cat([block.bias for block in plain]))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.features}, classes={self.classes}"


class MultiHead(GrowingHead):
    """A growing head that shows each row its own task's outputs alone; the others read `MASKED`.

    The task-incremental setting: the learner is told the task, also when it predicts. Labels stay
    global class ids, all logits keep their column, and a batch may mix tasks. Masked outputs get a
    gradient of exactly 0. A task may share classes with earlier ones: it then uses the same
    outputs, and a task grown again with further classes sees the union.

    Shapes: (rows, features) and task (rows,) int64 to (rows, classes so far). Rows of task -1
    (not known), and all rows when task is None, have nothing masked.

    Raises:
        ValueError: `grow` with a task without classes, or with a negative one.
        UnknownTask: called before it has grown, or with the id of a task it never grew for. Where
            checking would stall (ids on a GPU) or cannot be done (under vmap, when compiling),
            such rows read NaN instead, which no loss lets pass.

    Example:
        >>> head = MultiHead(8)
        >>> new = head.grow(TaskSpec(0, classes=(0, 1))) + head.grow(TaskSpec(1, classes=(2, 3)))
        >>> logits = head(torch.zeros(3, 8), task=torch.tensor([0, 1, -1]))
        >>> (logits > MASKED).int().tolist()
        [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._classes_of: dict[int, set[int]] = {}
        self._tables: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add the outputs that the task lacks and note which ones are its own."""
        new = super().grow(task)
        self._classes_of.setdefault(task.id, set()).update(task.classes)
        self._tables = {torch.device("cpu"): self._tabulate()}
        return new

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Compute the logits of every class so far, masking those outside each row's task."""
        logits = super().forward(x)
        if task is None:
            return logits
        device = logits.device
        if device not in self._tables:
            edges, shown, filler = self._tables[torch.device("cpu")]
            self._tables[device] = edges.to(device), shown.to(device), filler.to(device)
        edges, shown, filler = self._tables[device]
        place = torch.bucketize(task.to(device), edges, right=True)
        if task.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check(task, place)
        return torch.where(shown[place], logits, filler[place].to(logits.dtype))

    def _tabulate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Make the tables that tell what a row shows.

        The edges are id, id + 1 for -1 and each known id in order: an id falls into an odd place
        if it is known and into an even one if not, however large or far apart the ids are. Not
        buffers: a teacher made of an earlier state must not bring its narrower tables along.
        """
        known = sorted(self._classes_of)
        edges = torch.tensor([e for id in (-1, *known) for e in (id, id + 1)], device="cpu")
        shown = torch.zeros(len(edges) + 1, self.classes, dtype=torch.bool, device="cpu")
        filler = torch.full((len(edges) + 1, 1), torch.nan, device="cpu")
        shown[1] = True
        filler[1::2] = MASKED
        for i, id in enumerate(known):
            shown[2 * i + 3, sorted(self._classes_of[id])] = True
        return edges, shown, filler

    def _check(self, task: Tensor, place: Tensor) -> None:
        unknown = False
        with suppress(RuntimeError):  # vmap lets no value be looked at
            unknown = bool((place % 2 == 0).any())
        if unknown:
            ids = sorted(set(task[place % 2 == 0].tolist()))
            raise UnknownTask(
                f"task {', '.join(map(str, ids))} is not known to this head, which has grown for "
                f"{sorted(self._classes_of)}; grow for it first, with "
                "begin_task(TaskSpec(id, classes=...)), or pass -1 where the task is not known"
            )


class CosineHead(nn.Module):
    """A growing head whose logits are scaled cosines, so that new classes do not outgrow old ones.

    logit_c = scale * <w_c / |w_c|, f / |f|>, with scale learned (and norms of at least 0.001)

    Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR, CVPR).
    They start the scale at 1; here it starts at 10, as with 1 the largest softmax output among
    100 classes is 0.07 and training starts slowly. New weights are drawn, not imprinted.

    Args:
        features: width of the input.
        scale: what the learned scale starts at.

    Shapes: (rows, features) to (rows, classes so far), each at most |scale|.

    Raises:
        ValueError: a scale that is not positive, or `grow` with a task without classes, or with a
            negative one.
        UnknownTask: called before it has grown.

    Example:
        >>> head = CosineHead(2, scale=4.0)
        >>> (weight,) = head.grow(TaskSpec(0, classes=(0, 1)))
        >>> _ = weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> head(torch.tensor([[3.0, 0.0]])).tolist()
        [[4.0, 0.0]]
    """

    def __init__(self, features: int, scale: float = 10.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale is {scale}; it must be positive")
        self.features = features
        self.classes = 0
        self.scale = nn.Parameter(torch.tensor([float(scale)]))
        self.blocks = nn.ParameterList()

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add outputs up to the task's largest class; return the new weights, (new, features)."""
        lacking = needed_outputs(task) - self.classes
        if lacking <= 0:
            return []
        like, bound = self.scale, self.features**-0.5
        weight = torch.empty(lacking, self.features, device=like.device, dtype=like.dtype)
        block = nn.Parameter(nn.init.uniform_(weight, -bound, bound))
        self.blocks.append(block)
        self.classes += lacking
        return [block]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scaled cosines between the rows and every class so far."""
        if not len(self.blocks):
            raise ungrown(self)
        weight = F.normalize(torch.cat(list(self.blocks)), dim=-1, eps=FLOOR)
        return self.scale * F.linear(F.normalize(x, dim=-1, eps=FLOOR), weight)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.features}, classes={self.classes}"


def needed_outputs(task: TaskSpec) -> int:
    """Count the outputs that a task's labels need; raise where that cannot be told.

    Example:
        >>> needed_outputs(TaskSpec(0, classes=(2, 4)))
        5
    """
    if not task.classes:
        raise ValueError(
            f"task {task.id} comes without classes, and the head grows by them; "
            f"name them: begin_task(TaskSpec({task.id}, classes=(0, 1)))"
        )
    if min(task.classes) < 0:
        raise ValueError(
            f"task {task.id} has class {min(task.classes)}; class ids are 0 or more, "
            "as label c is output c"
        )
    return int(max(task.classes)) + 1


def ungrown(head: nn.Module) -> UnknownTask:
    """Make the error of a head that is asked before it has grown.

    Example:
        >>> print(ungrown(GrowingHead(2)))
        this GrowingHead has no outputs yet; give it a first task's classes: \
begin_task(TaskSpec(0, classes=(0, 1))), or head.grow() with the same
    """
    return UnknownTask(
        f"this {type(head).__name__} has no outputs yet; give it a first task's classes: "
        "begin_task(TaskSpec(0, classes=(0, 1))), or head.grow() with the same"
    )


def _is_plain(block: nn.Module) -> TypeGuard[nn.Linear]:
    hooks = (
        block._forward_hooks,
        block._forward_pre_hooks,
        block._backward_hooks,
        block._backward_pre_hooks,
    )
    return type(block) is nn.Linear and not any(hooks)
