"""EEIL: replay, and fine-tuning on a balanced memory at the end of each task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.strategies.replay import Replay
from lifelong.strategies.tuning import check_training, cosine, tune


class EEIL(Replay):
    """After each task, fine-tune on a memory in which every class has as many rows.

    weights <- SGD on the mean row loss of the memory, for a few epochs from the trained weights
    Castro et al. 2018, arXiv:1807.09536 (end-to-end incremental learning).

    So what the task's many rows have tipped towards the new classes is set upright. The paper
    distils from the last model as well: put `LwF` into the list for that. Its exemplars are
    chosen by herding; here they are a uniform sample of each class. The learning rate falls
    along a cosine, not in two steps.

    Args:
        capacity: how many rows the memory holds, or bytes such as "10MB".
        epochs: of fine-tuning.
        lr: of fine-tuning, at its start; a tenth of the stream's, in the paper.
        batch: rows a step of fine-tuning.
        **settings: as in `Replay`; the policy is "balanced" unless told otherwise.

    Raises:
        ValueError: epochs, lr or batch are not positive.

    Example:
        >>> EEIL(capacity=500).memory.policy.name
        'balanced'
    """

    own_pace: ClassVar[bool] = True
    only_read: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        epochs: int = 30,
        lr: float = 0.01,
        batch: int = 32,
        policy: str = "balanced",
        **settings: Any,
    ) -> None:
        super().__init__(capacity, policy=policy, **settings)
        check_training(epochs, batch, lr)
        self.epochs = epochs
        self.lr = lr
        self.batch = batch

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Fine-tune on the memory."""
        del data
        rate = cosine(self.lr, self.lr / 100)
        tune(learner, self.memory, self.generator, epochs=self.epochs, batch=self.batch, rate=rate)
