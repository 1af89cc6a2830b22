"""iCaRL: exemplars by herding, distillation, and classification by the nearest mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import BudgetTooSmall, InvalidBatch, StateMismatch
from lifelong.core.features import head_of, tapped
from lifelong.core.forward import evaluating
from lifelong.core.learner import Learner
from lifelong.core.strategy import State, Strategy
from lifelong.memory import herding
from lifelong.memory.rows import same_length
from lifelong.nets import NearestMeanHead
from lifelong.strategies.class_ids import check_among, check_class_ids, check_named
from lifelong.strategies.er_ace import uncounted
from lifelong.strategies.teacher import Frozen, answers, of_one_class, snapshot
from lifelong.strategies.xder import classes_so_far

_CLASSES = "it must be class ids, of which ICaRL keeps exemplars: for other targets take Replay"


class ICaRL(Strategy):
    """Replay exemplars, hold old outputs where they were, and predict by the nearest class mean.

    loss = mean over new rows and exemplars of the sum over classes c of the binary cross-entropy
           of sigmoid(output_c) to the last model's sigmoid(output_c / T) for old c, [y = c] for
           new c, by the weights that new rows came with; exemplars have the weight 1
    exemplars: of each class the first capacity / classes rows in the order of herding
    prediction: the class whose exemplars' mean feature is nearest (in a `NearestMeanHead`)
    Rebuffi et al. 2017, arXiv:1611.07725.

    This loss takes the place of the learner's own. The paper passes over exemplars and new rows
    together; here each batch gets `rows` exemplars, so they are seen more often. With another
    head than `NearestMeanHead` the logits predict, which is the paper's "hybrid 1". Until its
    first task ends, a class has no mean and is not predicted.

    `forget` cannot reach the means in the model: those of the classes that lost exemplars are
    computed again in the next step, or when the task ends. A class with no exemplar left then has
    no mean either, and is not predicted until it comes again.

    Args:
        capacity: how many exemplars are kept.
        rows: how many to replay with each batch; None for as many as are new.
        temperature: T, which softens what the last model answers; 1 in the paper, 2 in van de Ven
            & Tolias 2019, arXiv:1904.07734.

    Raises:
        ValueError: the capacity, the number of rows or the temperature is no positive number; from
            the step, a model without a head.
        BudgetTooSmall: fewer exemplars than classes; from the step, where the task names its
            classes, else when it ends.
        InvalidBatch: from the step, labels that are no classes or not among those named for the
            tasks so far, or classes without an output.

    Example:
        >>> ICaRL(capacity=200).exemplars
        {}
    """

    state: ClassVar[tuple[str, ...]] = ("exemplars", "teacher", "old", "lost")
    row_losses = True

    def __init__(
        self, capacity: int = 500, *, rows: int | None = None, temperature: float = 1.0
    ) -> None:
        if not isinstance(capacity, int):
            raise ValueError(
                f"capacity is {capacity!r}; ICaRL shares out exemplars, so give how many, or take "
                "Exemplars, whose memory may be so many bytes"
            )
        if capacity < 1 or (rows is not None and rows < 1):
            raise ValueError(f"capacity is {capacity} and rows {rows}; both must be 1 or more")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.capacity = capacity
        self.rows = rows
        self.temperature = temperature
        self.exemplars: dict[str, Tensor] = {}
        """Their columns, class by class, each in the order of herding."""
        self.teacher: dict[str, Tensor] = {}
        self.old: list[int] = []
        """The classes that the teacher knows."""
        self.lost: list[int] = []
        """The classes whose means are of exemplars that have been erased since."""
        self._index = torch.zeros(0, dtype=torch.int64)
        self._weight = torch.zeros(0)
        self._frozen = Frozen()
        self._held: set[int] | None = None

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append exemplars; the learner's own loss counts neither them nor the new rows."""
        check_class_ids(batch.y, _CLASSES)
        head_of(learner.model)  # in front of which exemplars will be chosen
        check_among(batch.y[: batch.new], learner.tasks, "ICaRL learns no others")
        if learner.tasks:
            self._check_room(self._classes().union(learner.tasks[-1].classes))
        if self.lost:
            self._fill(learner, self.lost)
        index = [torch.arange(batch.new)]
        weight = torch.ones(batch.new) if batch.weight is None else batch.weight[: batch.new]
        weights = [weight.to(learner.device)]
        batch = uncounted(batch)
        if self.exemplars and len(self.exemplars["y"]):
            order = torch.randperm(len(self.exemplars["y"]), generator=self.generator)
            drawn = order[: self.rows or batch.new].to(learner.device)
            columns = {name: column[drawn] for name, column in self.exemplars.items()}
            columns["weight"] = torch.zeros(len(drawn), device=learner.device)
            more = batch_of_columns(columns)
            index.append(torch.arange(len(batch), len(batch) + len(more)))
            weights.append(weight.new_ones(len(more), device=learner.device))
            batch = batch.extended(more)
        self._index, self._weight = torch.cat(index).to(learner.device), torch.cat(weights)
        return batch

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Binary cross-entropy to the labels for new classes, to the teacher for old ones."""
        output = of_one_class(output, batch, _CLASSES)
        check_named(learner.tasks, output)
        rows = batch.rows(self._index)
        logits: Tensor = output[self._index].float()
        classes = torch.arange(logits.shape[1], device=logits.device)
        target = (rows.y[:, None] == classes).float()
        known = classes_so_far(learner)
        if self.teacher:
            named = learner.tasks and learner.tasks[-1].classes
            present = torch.tensor(named, device=classes.device) if named else rows.y[: batch.new]
            old = torch.tensor(self.old, device=classes.device)
            held = torch.isin(classes, old) & ~torch.isin(classes, present)
            teacher = self._frozen.of(learner, self.teacher)
            softened = answers(learner, teacher, rows).float() / self.temperature
            target = torch.where(held, softened.sigmoid(), target)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        losses = (losses[:, known] if known else losses).sum(1)
        total = self._weight.sum()
        # Where no row counts, there is nothing to learn, and no 0 / 0.
        return torch.dot(losses, self._weight.float()) / total.where(total > 0, 1)

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """The means that `extend` has filled stay."""
        del learner, batch, output
        self.lost = []

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Choose exemplars, fill the class means, and take the model for the next teacher."""
        some = self.exemplars and len(self.exemplars["y"])
        held = [batch_of_columns(self.exemplars)] if some else []
        parts = [*held, *data]  # read once: a second pass may come in another order
        y, features = _embedded(learner, parts)
        classes = sorted(set(y.tolist()))
        self._check_room(classes)
        room = self.capacity // len(classes)
        count = sum(len(batch) for batch in held)
        chosen = []
        for c in classes:
            at = (y == c).nonzero().flatten()
            # A class without new rows keeps its order, of which the end is cut off.
            grown = bool((at >= count).any())
            chosen.append(at[herding(features[at], room)] if grown else at[:room])
        self.exemplars, self._held = _gathered(parts, torch.cat(chosen)), None
        self._fill(learner, sorted({*classes, *self.lost}))
        self.lost = []
        self.teacher = snapshot(learner.model)
        self.old = sorted({*self.old, *classes})

    def forget(self, keys: Tensor) -> int:
        """Drop the exemplars with these ids, and count them."""
        if not self.exemplars:
            return 0
        key = self.exemplars["key"]
        kept = ~(torch.isin(key, keys.to(key.device)) & (key != -1))
        gone = int((~kept).sum())
        if gone:
            self.lost = sorted({*self.lost, *self.exemplars["y"][~kept].tolist()})
            self.exemplars = {name: column[kept] for name, column in self.exemplars.items()}
            self._held = None
        return gone

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state, whose exemplars must have columns of one length."""
        if state.get("exemplars"):
            try:
                same_length(state["exemplars"])
            except InvalidBatch as error:
                raise StateMismatch(f"the exemplars of a state are damaged: {error}") from error
        super().load_state_dict(state)
        self._held = None

    def _classes(self) -> set[int]:
        """List the classes of the exemplars; once, as a GPU has to be waited for."""
        if self._held is None:
            self._held = set(self.exemplars["y"].tolist()) if self.exemplars else set()
        return self._held

    def _check_room(self, classes: Collection[int]) -> None:
        """Raise `BudgetTooSmall` unless each class can have an exemplar."""
        if len(classes) > self.capacity:
            raise BudgetTooSmall(
                f"capacity is {self.capacity}, for {len(classes)} classes; give at least one "
                "exemplar to each"
            )

    @torch.no_grad()
    def _fill(self, learner: Learner, classes: list[int]) -> None:
        """Compute the means of some classes from their exemplars; NaN where there is none."""
        head = head_of(learner.model)
        if not isinstance(head, NearestMeanHead):
            return
        means = head.means
        means[classes] = torch.nan
        if len(self.exemplars["y"]):
            y, features = _embedded(learner, [batch_of_columns(self.exemplars)])
            for c in set(classes) & set(y.tolist()):
                means[c] = features[y == c].mean(0).to(means)
        head.fill(means)


def _embedded(learner: Learner, data: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Compute the labels and the features, of norm 1, of all rows."""
    labels, features = [], []
    with tapped(learner.model) as tap, evaluating(learner.model):
        for batch in data:
            learner.output(batch)
            labels.append(batch.y)
            features.append(F.normalize(tap.features.flatten(1).float(), dim=1))
    return torch.cat(labels), torch.cat(features)


def _gathered(data: Iterable[Batch], index: Tensor) -> dict[str, Tensor]:
    """Copy the rows of these positions in the data, in this order, holding no others."""
    parts, first = [], 0
    positions, order = index.sort()
    for batch in data:
        inside = positions[(positions >= first) & (positions < first + len(batch))] - first
        columns = {n: c[inside] for n, c in batch.columns() if n != "weight"}
        parts.append(columns)
        first += len(batch)
    back = order.argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
