"""A mixture of experts whose inputs tell which of them is asked."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lifelong.core.errors import InvalidBatch, LabelOutsideHead
from lifelong.core.forward import wants_task
from lifelong.core.task import TaskSpec
from lifelong.nets.backbones import MLP, ResNet18, SmallCNN
from lifelong.nets.by_task import each_task
from lifelong.nets.classifier import Classifier
from lifelong.nets.heads import MASKED, needed_outputs


def fitting_rank(inputs: int) -> int:
    """Choose how many directions to keep of so many inputs: a quarter, 32 at most.

    Example:
        >>> fitting_rank(20), fitting_rank(784)
        (5, 32)
    """
    return max(1, min(32, inputs // 4))


class Experts(nn.Module):
    """Answer each row with the expert whose past inputs are most like it; no task need be told.

    expert of x = argmin_e |(x - m_e) - B_e B_e' (x - m_e)|**2, with B_e the `rank` leading
    directions of the expert's inputs around their mean m_e
    Aljundi, Chakravarty & Tuytelaars 2017, arXiv:1611.06194 (Expert Gate); the strategy
    `ExpertGate` decides which expert learns a task.

    The paper's gate is one autoencoder an expert, trained by gradients, on features of a network
    trained before. Here it is the best linear one in closed form, on the inputs as they come, so
    it suits small images and rows of numbers. An expert shows the classes of its own tasks alone.
    All experts are there from the start, `limit` times the model, so that nothing depends on
    what the data will be; those that no task needs stay as they were made, and cost no time.

    In training all rows go to the expert that learns the open task. Otherwise they go to those
    whose tasks have ended, or to that one as long as there are none.

    Args:
        model: what each expert is a copy of; one that does not want the task.
        inputs: numbers in one row, after flattening.
        limit: how many experts there are.
        rank: directions of each, fewer than inputs: what they leave tells experts apart.

    Shapes: (rows, ...) to (rows, classes), MASKED where classes are not the expert's.

    Raises:
        ValueError: inputs, a limit or a rank below 1, a rank that leaves nothing, or a model that
            wants the task; `grow` with a task that has a negative class.
        UnknownTask: a row is routed before any task has begun.
        InvalidBatch: rows that are not of so many inputs.
        LabelOutsideHead: a task has classes that the model has no outputs for; from `grow` where
            its last layer tells how many there are, else with the first rows.

    Example:
        >>> net = Experts(nn.Linear(4, 2), inputs=4, limit=3, rank=2)
        >>> net.grow(TaskSpec(0, classes=(0, 1)))
        []
        >>> net.assign(0)
        >>> net(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    mean: nn.Parameter
    basis: nn.Parameter
    values: nn.Parameter
    rest: nn.Parameter
    count: nn.Parameter

    taught_by: ClassVar[str] = "ExpertGate"

    def __init__(self, model: nn.Module, inputs: int, *, limit: int = 10, rank: int = 32) -> None:
        super().__init__()
        for name, value in (("inputs", inputs), ("limit", limit), ("rank", rank)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if rank >= inputs:
            way_out = f"give a rank below {inputs}, such as rank={fitting_rank(inputs)}"
            raise ValueError(
                f"rank is {rank} of {inputs} inputs, which leaves nothing to compare; "
                f"{way_out if inputs > 1 else 'give rows of two numbers or more'}"
            )
        if wants_task(model):
            raise ValueError(
                f"{type(model).__name__} wants the task, which experts are not told; take a "
                "Classifier, with a GrowingHead or nn.Linear"
            )
        self.limit = limit
        self.rank = rank
        self.experts = nn.ModuleList(copy.deepcopy(model) for _ in range(limit))
        shapes = {
            "mean": (limit, inputs),
            "basis": (limit, inputs, self.rank),
            "values": (limit, self.rank),  # variances along the directions
            "rest": (limit,),  # and what is left of them, which is the mean error
            "count": (limit,),
        }
        for name, shape in shapes.items():
            # Parameters, as these change at the ends of tasks alone: buffers are copied each step.
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self.tasks: list[TaskSpec] = []

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Note a task that begins, or begins again; its data decide which expert learns it."""
        if task.classes:
            needed_outputs(task)  # refuses negative ones
        if (outputs := _outputs_of(self.experts[0])) is not None:
            self._shown(task, outputs)
        nowhere = torch.tensor(-1, device=self.count.device)
        self.register_buffer(f"expert{len(self.tasks)}", nowhere)
        self.tasks.append(task)
        return []

    @property
    def assigned(self) -> list[int]:
        """The expert of each task, -1 where that is not decided; reading it waits for a GPU."""
        return [int(self.get_buffer(f"expert{n}")) for n in range(len(self.tasks))]

    def assign(self, expert: int) -> None:
        """Let an expert learn the newest task."""
        self.get_buffer(f"expert{len(self.tasks) - 1}").fill_(expert)

    def errors(self, x: Tensor) -> Tensor:
        """Compute what each expert leaves of each row, (rows, experts); infinite without inputs.

        Raises:
            InvalidBatch: rows of another size.
        """
        flat = self._flat(x).to(self.mean.dtype)
        away = flat[:, None] - self.mean  # (rows, experts, inputs)
        along = torch.einsum("rei,eid->red", away, self.basis)
        left = (away.square().sum(2) - along.square().sum(2)).clamp(min=0)
        return torch.where(self.count > 0, left, torch.inf)

    @torch.no_grad()
    def known(self, expert: int) -> list[Tensor]:
        """Copy what an expert knows of its inputs: mean, basis, values, rest and count."""
        return [figures[expert].clone() for figures in self._figures()]

    @torch.no_grad()
    def fit(
        self, expert: int, rows: Iterable[Tensor], before: Sequence[Tensor] | None = None
    ) -> None:
        """Add rows, in batches, to what an expert knows of its inputs.

        Args:
            expert: which one.
            rows: its inputs.
            before: what it knew, as `known` gave it, to add to in the place of what it knows now.

        Raises:
            InvalidBatch: rows of another size.
        """
        known = self.known(expert) if before is None else before
        mean, basis, values, rest, count = (figures.double() for figures in known)
        lost = rest * count  # what earlier rows had beside their directions
        square = count * (basis * values) @ basis.T
        total = count * mean
        square = square + count * torch.outer(mean, mean)
        for x in rows:
            flat = self._flat(x).double()
            square, total, count = square + flat.T @ flat, total + flat.sum(0), count + len(flat)
        mean = total / count
        cover = square / count - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh((cover + cover.T) / 2)
        rest = values[: len(values) - self.rank].clamp(min=0).sum() + lost / count
        found = (mean, vectors[:, -self.rank :], values[-self.rank :].clamp(min=0), rest, count)
        for own, value in zip(self._figures(), found, strict=True):
            own[expert] = value.to(own.dtype)

    def _flat(self, x: Tensor) -> Tensor:
        flat, inputs = x.flatten(1), self.mean.shape[1]
        if flat.shape[1] != inputs:
            raise InvalidBatch(
                f"rows of {flat.shape[1]} numbers, and the experts are told apart by {inputs}; "
                f"give such rows, or make them with Experts(model, inputs={flat.shape[1]})"
            )
        return flat

    def _shown(self, task: TaskSpec, outputs: int) -> list[int] | slice:
        """Index the outputs of a task's classes, all where they are not known."""
        if beyond := [label for label in task.classes if not 0 <= label < outputs]:
            raise LabelOutsideHead(
                f"task {task.id} has the classes {', '.join(map(str, beyond))}, and the experts "
                f"have outputs for 0 to {outputs - 1}; make them of a model with more outputs, or "
                "name the task's classes by their labels"
            )
        return list(task.classes) or slice(None)

    def _figures(self) -> tuple[nn.Parameter, ...]:
        return self.mean, self.basis, self.values, self.rest, self.count

    def forward(self, x: Tensor) -> Tensor:
        """Compute each row's logits by the expert that it is routed to."""
        known = range(self.limit) if self.tasks else ()
        assigned = self.assigned
        learning = max(assigned[-1:], default=0)
        route = torch.full((len(x),), max(learning, 0), device=x.device)
        if not self.training and bool((self.count > 0).any()):
            route = self.errors(x).argmin(1)

        def run(expert: int, rows: Tensor | None) -> Tensor:
            logits: Tensor = self.experts[expert](x if rows is None else x[rows])
            shown = logits.new_zeros(logits.shape[1], dtype=torch.bool)
            for task, own in zip(self.tasks, assigned, strict=True):
                if own == expert:
                    shown[self._shown(task, len(shown))] = True
            return torch.where(shown, logits, MASKED)

        return each_task(route, known, run)


def _outputs_of(model: nn.Module) -> int | None:
    """Count the outputs of a model; None where its last layer is not known, or grows."""
    if isinstance(model, nn.Linear):
        return model.out_features
    last: object = None
    if isinstance(model, nn.Sequential):
        last = model[-1] if len(model) else None
    elif isinstance(model, MLP | SmallCNN | ResNet18):
        last = model.output
    elif isinstance(model, Classifier):
        last = model.head
    return _outputs_of(last) if isinstance(last, nn.Module) else None
