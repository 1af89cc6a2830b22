"""GDumb: keep a balanced memory, and train from scratch on it alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.strategies.replay import Replay
from lifelong.strategies.tuning import check_training, cosine, tune


class GDumb(Replay):
    """Learn nothing from the stream but which rows to keep; at a task's end, start anew on those.

    weights <- SGD on the mean row loss of the memory, from the initial weights
    Prabhu, Torr & Dokania 2020, "GDumb: A simple approach that questions our progress in
    continual learning" (ECCV).

    The yardstick for every method that replays. Between two consolidations the model stays as it
    is, the statistics of its norms too: a step costs its forward and backward pass, and changes
    the memory alone. When nothing is left in the memory, the initial model is. The learning
    rate falls along one cosine, without the paper's restarts, warm-up and CutMix. The memory is a
    uniform sample of each class, where the paper's keeps the first rows that came. Strategies
    beside it that change gradients have nothing to change.

    Args:
        capacity: how many rows the memory holds, or bytes such as "10MB".
        epochs: over the memory; 256 in the paper.
        lr: at the start; it falls to a hundredth.
        batch: rows a step.
        **settings: as in `Replay`; the policy is "balanced" unless told otherwise.

    Raises:
        ValueError: epochs, lr or batch are not positive.

    Example:
        >>> GDumb(capacity=500).epochs
        50
    """

    own_pace: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("memory", "initial")
    only_read: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        epochs: int = 50,
        lr: float = 0.05,
        batch: int = 16,
        policy: str = "balanced",
        **settings: Any,
    ) -> None:
        super().__init__(capacity, policy=policy, **settings)
        check_training(epochs, batch, lr)
        self.epochs = epochs
        self.lr = lr
        self.batch = batch
        self.initial: dict[str, Tensor] = {}
        """By the name of a parameter or buffer, what it was before it learned."""
        self._buffers: list[Tensor] = []

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Only make sure that the new rows can be kept, and note the statistics of norms."""
        self.check(learner, batch)
        self._buffers = [buffer.clone() for buffer in learner.model.buffers()]
        return batch

    def project(self, learner: Learner) -> bool | None:
        """Take the gradient away, so that the optimizer moves nothing, not even by momentum."""
        for parameter in learner.parameters.values():
            parameter.grad = None
        return True

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Offer the new rows to the memory, and take back what the pass has changed."""
        super().after_step(learner, batch, output)
        for buffer, before in zip(learner.model.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        self._buffers = []

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Train from the initial weights on the memory."""
        del data
        saved = learner.model.state_dict()
        buffers = {name: b for name, b in learner.model.named_buffers() if name in saved}
        for name, tensor in {**learner.parameters, **buffers}.items():
            if name not in self.initial:  # new, and nothing has moved it yet
                self.initial[name] = tensor.detach().clone()
            tensor.copy_(self.initial[name])
        rate = cosine(self.lr, self.lr / 100)
        with torch.enable_grad():
            tune(
                learner,
                self.memory,
                self.generator,
                epochs=self.epochs,
                batch=self.batch,
                rate=rate,
            )
