"""Analytic learning: the head is computed from sums over all rows, and nothing is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.core.features import head_of, tapped
from lifelong.core.forward import evaluating
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.nets.analytic import AnalyticHead
from lifelong.strategies.glimpse import Glimpse
from lifelong.strategies.ledger import Ledger


class Analytic(Strategy):
    """Take the features of every new row into an analytic head, which so knows all rows alike.

    sums <- sums + what the new rows add to them; output = the head's closed form of the sums
    Hayes & Kanan 2020, arXiv:1909.01520 (`LDAHead`); McDonnell et al. 2023, arXiv:2307.02251
    (`RidgeHead`); class means (`MeansHead`).

    Features have to stay what they are, so all that is before the head is put in eval mode and
    does not learn: take a pretrained backbone, frozen, and no optimizer. With `warm` the backbone
    learns in the first task, through the head's `logits`, and is frozen at its end, when that
    task's rows are taken in (RanPAC's first phase); until then the logits predict. A row that
    comes twice counts twice, so one epoch is enough. Weights of rows are not looked at, and
    replayed rows are not taken in.

    By default it keeps no rows, so `learner.forget` has none to drop, and sums that they are part
    of stay. `remove` takes rows out that are given once more. With `erasable` it keeps the features
    of every row that has an id, for which there is no bound: then `learner.forget(keys)` takes
    these rows out of the sums, as if they had never come but for rounding in float64.

    Args:
        warm: whether the backbone learns in the first task.
        erasable: whether rows are kept as features, to be taken out by their ids.

    Raises:
        ValueError: from `extend`, when the model's head is no `AnalyticHead`, or is to be trained
            through and has no `logits`, or what is before it would learn without `warm`.
        InvalidBatch: labels are no classes.

    Example:
        >>> from lifelong.nets import MLP, Classifier, LDAHead
        >>> net = Classifier(MLP(4, hidden=(8,)).requires_grad_(False), LDAHead(8, classes=2))
        >>> learner = Learner(net, None, [Analytic()])
        >>> loss = learner.observe(Batch.of(torch.rand(6, 4), torch.tensor([0, 1] * 3)))
        >>> net.head.counts
        tensor([3, 3])
    """

    state: ClassVar[tuple[str, ...]] = ("frozen", "erasable", "kept")

    def __init__(self, *, warm: bool = False, erasable: bool = False) -> None:
        self.warm = warm
        self.erasable = erasable
        self.kept = Ledger("features", "y", "key")
        """Features, class and id of every row, where it is erasable."""
        self.frozen = not warm
        """Whether features are what they will always be."""
        self._seen = Glimpse()
        self._looked = 0

    def acts(self, moment: str) -> bool:
        """Only a backbone that learns at first has gradients to drop, and a task to consolidate."""
        return super().acts(moment) and (self.warm or moment not in ("project", "consolidate"))

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Put all before the head in eval mode, and watch the forward pass that follows."""
        if batch.y.dtype != torch.int64 or batch.y.ndim != 1:
            raise InvalidBatch(
                f"y is {batch.y.dtype} of shape {tuple(batch.y.shape)}; it must be class ids, int64"
            )
        head = _head_of(learner)
        if not self.frozen and head.logits is None:
            raise ValueError(
                f"{type(head).__name__} has nothing to train through; give it a head for that: "
                f"logits=GrowingHead({head.features}), or leave out warm"
            )
        if not self.warm and self._looked != len(learner.parameters):
            _check_frozen(learner, head)
            self._looked = len(learner.parameters)
        if self.frozen:
            free = {id(module) for module in (learner.model, *head.modules())}
            for module in learner.model.modules():
                if module.training and id(module) not in free:
                    module.training = False
            self._seen.watch(learner.model)
        return batch

    def project(self, learner: Learner) -> bool | None:
        """Once frozen, take the gradient away, so that nothing moves, not even by momentum."""
        if not self.frozen:
            return None
        for parameter in learner.parameters.values():
            parameter.grad = None
        return True

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Take the new rows in."""
        del output
        if self.frozen:
            seen, self._seen = self._seen, Glimpse()  # holds on to no activation after the step
            self._add(learner, seen.features, batch)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """After the first task, take its rows in, with the features that will stay."""
        if not self.frozen:
            for batch in data:
                self._add(learner, _features(learner, batch), batch)
            self.frozen = True

    def unlearn(self, learner: Learner, keys: Tensor) -> None:
        """Take the rows with these ids out of the head, if they are kept for that."""
        gone = self.kept.of(keys)
        if gone and len(gone["y"]):
            own = (gone[name].to(learner.device) for name in ("features", "y"))
            _head_of(learner).remove(*own)

    def forget(self, keys: Tensor) -> int:
        """Drop the features of these rows, and count them."""
        return self.kept.drop(keys)

    def remove(self, learner: Learner, batch: Batch) -> None:
        """Take rows out of the head, as if they had never come, but for rounding of the features.

        Args:
            learner: the one this belongs to.
            batch: rows that were learned from, each as often as it came. Where rows are erasable,
                those with one of these ids are kept no longer.

        Raises:
            InvalidBatch: more rows of a class than there have been; nothing is taken out.
        """
        batch = batch.to(learner.device)
        _head_of(learner).remove(_features(learner, batch), batch.y)
        self.kept.drop(batch.key[batch.key != -1])  # else `forget` would take them out once more

    def undo(self) -> Callable[[], None]:
        """Once frozen, a task's end changes nothing."""
        return super().undo() if not self.frozen else lambda: None

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: it is of another strategy, or of one whose rows are erasable if this
                one's are not, or the other way round.
        """
        if state.get("erasable", self.erasable) != self.erasable:
            raise StateMismatch(
                f"the state is of Analytic(erasable={state['erasable']}), and this one has "
                f"erasable={self.erasable}; make it as it was saved"
            )
        super().load_state_dict(state)

    def _add(self, learner: Learner, features: Tensor, batch: Batch) -> None:
        new = slice(batch.new)
        rows = {"features": features[new], "y": batch.y[new], "key": batch.key[new]}
        if self.erasable:
            self.kept.check(rows)
        _head_of(learner).add(rows["features"], rows["y"])
        if self.erasable:
            self.kept.add(rows)


@torch.no_grad()
def _features(learner: Learner, batch: Batch) -> Tensor:
    """Compute what the head is given, in eval mode."""
    with evaluating(learner.model), tapped(learner.model) as tap, learner.autocast():
        _head_of(learner).train()  # its outputs are not asked for, and not solved for each batch
        learner.output(batch)
    return tap.features


def _check_frozen(learner: Learner, head: AnalyticHead) -> None:
    """Raise `ValueError` if something before the head learns, as features would not stay."""
    own = {id(parameter) for parameter in head.parameters()}
    before = [name for name, p in learner.parameters.items() if id(p) not in own]
    if before:
        told = ", ".join(before[:3]) + (", ..." if len(before) > 3 else "")
        raise ValueError(
            f"{told} would learn, and the features of rows that are in the sums would not stay; "
            "freeze what is before the head (model.backbone.requires_grad_(False)) and make the "
            "learner again, without an optimizer: Learner(model, None, [Analytic()]); or let it "
            "learn in the first task: Analytic(warm=True)"
        )


def _head_of(learner: Learner) -> AnalyticHead:
    head = head_of(learner.model)
    if not isinstance(head, AnalyticHead):
        raise ValueError(
            f"the head of the model is a {type(head).__name__}, which cannot be computed; put one "
            "of lifelong.nets there: model.head = RidgeHead(features)"
        )
    return head
