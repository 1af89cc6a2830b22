"""A step happens whole or not at all: what is not finite is found before the weights change."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lifelong.core.batch import Batch
from lifelong.core.errors import LifelongError
from lifelong.core.faults import HIDDEN, explain_non_finite, hidden_labels

if TYPE_CHECKING:
    from lifelong.core.learner import Learner


class Guard:
    """Undo whatever a failing step has changed before its error leaves `observe`.

    On the CPU the loss is read before the backward pass, and the gradient after it.
    On a GPU the loss travels to the host while the backward pass is under way, and is read before
    the optimizer's step is launched, so the device never waits; there a finite loss with a
    gradient that is not finite goes unnoticed until the next loss, except in fp16.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._buffers: list[tuple[list[Tensor], list[Tensor]]] = []
        """Of each type, the model's buffers and what they were before the step."""
        self._flag: Tensor | None = None
        if learner.device.type == "cuda":
            self._flag = torch.empty((), pin_memory=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        """Look again at which buffers the model has; called when it has grown."""
        # By type: torch copies only tensors of one type in one go on a GPU.
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in self._learner.model.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._buffers = [
            (buffers, [torch.empty_like(buffer) for buffer in buffers])
            for buffers in by_type.values()
        ]

    def __enter__(self) -> None:
        learner = self._learner
        self._generators = [(s.generator, s.generator.get_state()) for s in learner.strategies]
        self._counts = learner.batches, learner.pending
        self._first_hook = RemovableHandle.next_id
        self._gradients: list[Tensor | None] | None = None
        for buffers, kept in self._buffers:
            torch._foreach_copy_(kept, buffers)
        if learner.pending:
            self._gradients = [
                None if p.grad is None else p.grad.clone() for p in learner.parameters.values()
            ]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        learner = self._learner
        learner.batches, learner.pending = self._counts
        for generator, state in self._generators:
            generator.set_state(state)
        for buffers, kept in self._buffers:
            torch._foreach_copy_(buffers, kept)
        self._unhook()
        if learner.optimizer is not None:
            learner.optimizer.zero_grad()
        for parameter, gradient in zip(
            learner.parameters.values(), self._gradients or (), strict=False
        ):
            parameter.grad = gradient
        if learner._scaler is not None:
            # What it notes between unscaling and the step would make it refuse the next batch.
            learner._scaler._per_optimizer_states.clear()

    def _unhook(self) -> None:
        """Take off the model what the failing step has hooked on to it."""
        for module in self._learner.model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for number in [n for n in hooks if n >= self._first_hook]:
                    del hooks[number]

    def watch_loss(self, loss: Tensor, batch: Batch, output: Any) -> None:
        """Look at the loss before the backward pass, or have it sent to the host meanwhile."""
        if self._flag is None:
            self._look(loss.item(), batch, output)
        else:
            self._flag.copy_(loss.detach(), non_blocking=True)
            self._arrived.record(torch.cuda.current_stream(self._learner.device))

    def check_loss(self, batch: Batch, output: Any) -> None:
        """Look at the loss that was sent to the host."""
        if self._flag is None:
            return
        self._arrived.synchronize()
        self._look(self._flag.item(), batch, output)

    def _look(self, loss: float, batch: Batch, output: Any) -> None:
        """Raise if the loss is not finite, or as large as that of one row with a hidden label."""
        if not math.isfinite(loss):
            raise self.explain(batch, output, "the loss")
        if loss * len(batch) > -HIDDEN / 2 and (hidden := hidden_labels(batch, output)) is not None:
            raise hidden

    def explain(self, batch: Batch, output: Any, found: str) -> LifelongError:
        """Say what is at fault where a loss or a gradient is not finite, as the error to raise."""
        learner = self._learner
        return explain_non_finite(batch, output, learner.steps, found, learner.parameters.values())

    def check_gradient(self, batch: Batch, output: Any) -> None:
        """Raise if the gradient is not finite (on the CPU)."""
        if self._flag is not None:
            return
        # A sum keeps every NaN and infinity, and is the least that can be read of a gradient.
        total = 0.0
        for parameter in self._learner.parameters.values():
            gradient = parameter.grad
            if gradient is not None:
                wide = torch.float32 if gradient.itemsize < 4 else None
                total += gradient.sum(dtype=wide).item()
        if not math.isfinite(total):
            raise self.explain(batch, output, "the gradient")


def remembered(learner: Learner) -> Callable[[], None]:
    """Copy what the end of a task may change beside strategies; return what puts it back.

    That is weights and buffers, and where a step is left over what that changes: gradients, the
    optimizer, the scheduler, the scaler and the counts.
    """
    tensors = [*learner.model.parameters(), *learner.model.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    counts = learner.pending, learner.steps
    parameters = list(learner.parameters.values()) if learner.pending else []
    gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
    own = (learner.optimizer, learner.scheduler, learner._scaler) if learner.pending else ()
    stateful = [(part, copy.deepcopy(part.state_dict())) for part in own if part is not None]

    def put_back() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
        learner.pending, learner.steps = counts
        for part, state in stateful:
            part.load_state_dict(state)
        if learner.optimizer is not None:
            learner.optimizer.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    return put_back
