"""X-DER: DER++ whose stored answers are completed when classes come that they knew nothing of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.learner import Learner
from lifelong.nets.heads import MASKED
from lifelong.strategies.der import DERpp
from lifelong.strategies.er_ace import own_loss, uncounted


class XDER(DERpp):
    """DER++ with answers to old rows that learn of new classes, and new rows that spare old ones.

    loss = mean over new rows of the loss on the classes of the new rows alone
         + strength * mean of (output - stored output)**2 + label_strength * replayed rows' loss
    stored output_c <- output_c * min(1, ceiling * stored output_y / max_c output_c), c new
    Boschini et al. 2022, arXiv:2201.00766 (eXtended-DER).

    Of the paper's parts this has those that carry it: the update of past logits, scaled so that no
    new class outgrows the row's own y, and the separate loss of new rows. It leaves out what
    prepares outputs of classes still to come (they would have to be known, and augmented views
    made for a contrastive loss) and the two margins. Answers for classes still to come are not
    stored, and are filled in when the task that brings them ends, once, instead of at every step.
    What is stored of new rows gives no old class more than their own y, either: old are the classes
    of earlier tasks alone, and where tasks name none, those that no new row of the batch is of.
    Labels are replayed on all classes, as rows of the present task are in the memory too.
    New rows count by the weights that they come with, as in `ERACE`.

    Args:
        capacity: how many rows the memory holds, or bytes such as "10MB".
        strength: alpha in the paper.
        label_strength: beta in the paper.
        ceiling: gamma in the paper.
        **settings: as in `Replay`.

    Raises:
        ValueError: a negative strength, or a ceiling outside 0 to 1.

    Example:
        >>> XDER(capacity=200).ceiling
        0.85
    """

    own_pace: ClassVar[bool] = True

    def __init__(
        self,
        capacity: int | str = 500,
        *,
        strength: float = 0.3,
        label_strength: float = 0.8,
        ceiling: float = 0.85,
        **settings: Any,
    ) -> None:
        super().__init__(capacity, strength=strength, label_strength=label_strength, **settings)
        if not 0 <= ceiling <= 1:
            raise ValueError(f"ceiling is {ceiling}; it must lie between 0 and 1")
        self.ceiling = ceiling
        self._weight: Tensor | None = None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append both draws; the new rows' loss is left to `penalty` (weight 0)."""
        self._weight = batch.weight
        return super().extend(learner, uncounted(batch))

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """The new rows' loss on their own classes, and DER++'s terms."""
        own = own_loss(learner, batch, output, self._weight)
        return own + super().penalty(learner, batch, output)

    def answers(self, learner: Learner, batch: Batch, output: Tensor) -> Tensor:
        """The new rows' outputs without those of classes still to come, old ones not above y."""
        y = batch.y[: batch.new]
        logits = super().answers(learner, batch, output)
        classes = torch.arange(logits.shape[1], device=y.device)
        known = classes_so_far(learner)
        if known:
            come = torch.isin(classes, torch.tensor(known, device=y.device))
            logits = torch.where(come, logits, torch.nan)
            own = torch.tensor(learner.tasks[-1].classes, device=y.device)
            old = come & ~torch.isin(classes, own) & (classes != y[:, None])
        else:
            old = (classes[:, None] != y).all(1)
        return torch.where(old, below(logits, logits, y, old, self.ceiling), logits)

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Fill in what the rows held have no answer for, of classes that have come by now."""
        del data
        if len(self.memory) == 0:
            return
        known = classes_so_far(learner)
        every = torch.arange(len(self.memory))
        for slots in every.split(512):  # type: ignore[no-untyped-call]
            held = {n: c.to(learner.device) for n, c in self.memory.read(slots).items()}
            then, y = held["logits"], held["y"]
            batch = batch_of_columns(held)
            now = learner.predict(batch.x, batch.task)[:, : then.shape[1]].float()
            lacking = then.isnan() & (now > MASKED)
            if known:
                classes = torch.arange(then.shape[1], device=y.device)
                lacking &= torch.isin(classes, torch.tensor(known, device=y.device))
            filled = below(now, then, y, lacking, self.ceiling)
            self.memory.write(slots, {"logits": torch.where(lacking, filled, then)})


def classes_so_far(learner: Learner) -> list[int]:
    """List the classes of all tasks begun; none where a task did not name its own.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> classes_so_far(Learner(net, torch.optim.SGD(net.parameters())))
        []
    """
    named = [task.classes for task in learner.tasks]
    return sorted({c for classes in named for c in classes}) if all(named) else []


def below(now: Tensor, then: Tensor, y: Tensor, chosen: Tensor, ceiling: float) -> Tensor:
    """Scale outputs so that of the chosen ones none is above the answer stored for y.

    Args:
        now: (rows, classes).
        then: (rows, classes), with the answer for y.
        y: (rows,).
        chosen: (rows, classes) or (classes,), bool.
        ceiling: where the largest ends up, as a part of the answer for y, if it was above that.

    Example:
        >>> now, then = torch.tensor([[9.0, 8.0, 4.0]]), torch.tensor([[2.0, 0.0, 0.0]])
        >>> new = torch.tensor([False, True, True])
        >>> below(now, then, torch.tensor([0]), new, 0.5)[:, 1:]
        tensor([[1.0000, 0.5000]])
    """
    own = then.gather(1, y[:, None])
    top = now.masked_fill(~chosen | now.isnan(), -torch.inf).amax(1, keepdim=True)
    factor = torch.where(top > own, ceiling * own.clamp(min=0) / top.clamp(min=1e-6), 1.0)
    return torch.minimum(now * factor, own)
