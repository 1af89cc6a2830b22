"""Models whose weights depend on the task: what packed and masked networks share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.func import functional_call

from lifelong.core.features import head_of
from lifelong.core.forward import wants_task
from lifelong.core.task import Growing, TaskSpec
from lifelong.nets.by_task import each_task, is_newest


class TaskWeights(nn.Module):
    """Run any model with the weights of each row's task in its linear and convolution layers.

    What those weights are, a network that derives from this says in `weights`.

    Args:
        model: any module with `nn.Linear` or `nn.Conv2d` layers. Such layers that come later, as a
            head's do when it grows, are left alone.
        learning: whether to leave alone those whose weights are frozen, too.

    Attributes:
        names: of the weights, within the model.
        ids: of the tasks that it has grown for.

    Raises:
        ValueError: the model has no such layer, or all are frozen and so left alone.
    """

    rewrites: ClassVar[bool] = True  # what is free, and what is kept

    def __init__(self, model: nn.Module, *, learning: bool) -> None:
        super().__init__()
        self.model = model
        layers = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        found = {name: p for name, p in model.named_parameters() if id(p) in layers}
        if not found:
            raise ValueError(f"{type(model).__name__} has no nn.Linear and no nn.Conv2d to mask")
        self.names = [name for name, p in found.items() if p.requires_grad or not learning]
        if not self.names:
            raise ValueError(
                f"all linear and convolution layers of {type(model).__name__} are frozen "
                f"({', '.join([*found][:5])}), and frozen weights are left as they are; unfreeze "
                "some: requires_grad_(True)"
            )
        self.ids: list[int] = []
        self._inner_task = wants_task(model)

    @property
    def head(self) -> nn.Module:
        """The model's own head."""
        return head_of(self.model)

    @abstractmethod
    def weights(self, place: int) -> dict[str, Tensor]:
        """By name, the weights of the task at a place among all."""

    @property
    def settled(self) -> bool:
        """Whether buffers must stay as they are, as more than one task's outputs hang on them."""
        return len(self.ids) > 1

    def own(self) -> list[nn.Parameter]:
        """List the parameters that `names` names."""
        return [self.model.get_parameter(name) for name in self.names]

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Begin a task; what that takes, `begin` says."""
        if not is_newest(self.ids, task):
            self.begin()
            self.ids.append(task.id)
            self.train(self.training)  # what is frozen now may have another mode
        return []

    def train(self, mode: bool = True) -> Self:
        """Set the mode; once `settled`, what has buffers stays in eval mode.

        Training may move them: statistics of norms, other averages, vectors of a power iteration.
        """
        super().train(mode)
        if self.settled:
            for module in self.model.modules():
                # What grows for tasks minds them itself: a head may train otherwise than it tells.
                if _has_buffers(module) and not isinstance(module, Growing):
                    module.training = False
        return self

    @abstractmethod
    def begin(self) -> None:
        """Keep what the newest task has learned, and make room for another."""

    def forward(self, *x: Tensor, task: Tensor | None = None, **named: Tensor) -> Tensor:
        """Run the model on each task's rows with its weights."""

        def run(place: int, rows: Tensor | None) -> Tensor:
            args, options, own = x, dict(named), task
            if rows is not None and task is not None:
                args, own = tuple(part[rows] for part in x), task[rows]
                options = {name: part[rows] for name, part in named.items()}
            told: dict[str, Any] = {"task": own} if self._inner_task else {}
            output: Tensor = functional_call(
                self.model, self.weights(place), args, {**options, **told}
            )
            return output

        return each_task(task, self.ids, run)


def _has_buffers(module: nn.Module) -> bool:
    return next(module.buffers(recurse=False), None) is not None
