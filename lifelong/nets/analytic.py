"""Heads that are computed, not trained: the base of all, and class means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.errors import InvalidBatch, LabelOutsideHead
from lifelong.core.forward import wants_task
from lifelong.core.task import Growing, TaskSpec
from lifelong.nets.heads import MASKED, ungrown


class AnalyticHead(nn.Module, ABC):
    """Classify by what sums over all rows say; the base of heads that need no gradient.

    counts n_c, sums s_c = sum of h over rows of class c, moments Q = sum of h h^T over all rows
    eval:     output = (h - c) W + b, (W, b) computed from n, s, Q and c
    training: the logits of a head to train through, or 0 for every class

    h are the features, or what a subclass makes of them; c is their mean, or 0. Sums do not depend
    on the order of rows or how they were cut into batches, so after any stream the outputs are
    those of all rows at once; `remove` takes rows out as exactly. All of it is in the state of the
    module, in float64, so that the model alone is saved, exported and served; the solution is not,
    and is computed when a changed head is first asked. A class without rows reads `MASKED`; as long
    as there is no row at all, the outputs are those of training. Without a head to train through
    the loss is the logarithm of the number of classes, whatever the rows.

    Args:
        features: width of the input.
        classes: how many there are from the start; more come with tasks.
        logits: a head to train a backbone through, such as `GrowingHead`; None for a frozen one.

    Shapes: (rows, features) to (rows, classes).

    Raises:
        ValueError: `grow` with a task without classes, where there are none yet.
        UnknownTask: called before it has any class.
    """

    taught_by: ClassVar[str] = "Analytic"

    second = False
    """Whether the head needs the moments."""
    centred = False
    """Whether outputs are of features less their mean, of which they do not depend but that far
    from 0, in float32, they would be lost in rounding."""
    center: Tensor
    weight: Tensor
    bias: Tensor
    _like: Tensor

    def __init__(self, features: int, *, classes: int = 0, logits: nn.Module | None = None) -> None:
        super().__init__()
        if features < 1 or classes < 0:
            raise ValueError(f"{features} features, {classes} classes; give 1 or more, 0 or more")
        if logits is not None:
            if wants_task(logits):
                raise ValueError(
                    f"{type(logits).__name__} wants the task, which these heads are not told; take "
                    "a GrowingHead or nn.Linear"
                )
            classes = int(getattr(logits, "classes", getattr(logits, "out_features", classes)))
        self.features = features
        self.logits = logits
        self._widths: list[int] = []
        self._solved: tuple[object, ...] = ()
        width = self.width
        # What a step cannot change is no buffer but a parameter that never trains: a learner
        # copies buffers before every step, and these may be large.
        if self.second:
            self.moments = held(torch.zeros(width, width, dtype=torch.float64))
        self.sums = nn.ParameterList()
        for name in ("center", "weight", "bias"):
            self.register_buffer(name, torch.zeros(0), persistent=False)
        # Holds nothing, but follows .to(), so that a block is born where the head is.
        self.register_buffer("_like", torch.zeros(0), persistent=False)
        self._widen(classes)

    @property
    def width(self) -> int:
        """How many numbers of a row are summed up."""
        return self.features

    @property
    def classes(self) -> int:
        """How many outputs there are."""
        return sum(self._widths)

    @property
    def counts(self) -> Tensor:
        """(classes,) int64, how many rows of each class there have been."""
        blocks = [getattr(self, f"counts{n}") for n in range(len(self._widths))]
        return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.int64)

    @property
    def held_bytes(self) -> int:
        """Bytes of the sums, and of what they are made with: what it keeps of the past."""
        own = [p for name, p in self.named_parameters() if not name.startswith("logits.")]
        return sum(tensor.nbytes for tensor in (*own, self.counts))

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Make room for the task's classes; return what the head to train through gains.

        Raises:
            ValueError: the task comes without classes, and there are none yet.
        """
        new: list[nn.Parameter] = self.logits.grow(task) if isinstance(self.logits, Growing) else []
        needed = max(task.classes, default=-1) + 1
        if self.logits is not None:
            needed = int(getattr(self.logits, "classes", self.classes))
        if needed == self.classes == 0:
            raise ValueError(
                f"task {task.id} comes without classes, and the head grows by them; name them: "
                f"begin_task(TaskSpec({task.id}, classes=(0, 1))), or give the head classes=10"
            )
        self._widen(needed - self.classes)
        return new

    def add(self, features: Tensor, y: Tensor) -> None:
        """Take rows in.

        Args:
            features: (rows, features), as the head is given them.
            y: (rows,) int64 class ids.

        Raises:
            InvalidBatch: features that are not finite or of another width, or labels that are no
                classes; the head is as before.
            LabelOutsideHead: a class that the head has no output for.
        """
        self._count(features, y, 1)

    def remove(self, features: Tensor, y: Tensor) -> None:
        """Take rows out again: what is left is as if they had never come, but for rounding.

        Raises:
            InvalidBatch: as in `add`, or more rows of a class than there have been.
        """
        self._count(features, y, -1)

    def lift(self, x: Tensor) -> Tensor:
        """Make of features what is summed up: (rows, width)."""
        return x

    def solve(self) -> None:
        """Compute the weights from the sums, if those have changed since."""
        blocks = [getattr(self, f"counts{n}") for n in range(len(self._widths))]
        sums = [*blocks, *self.sums, *([self.moments] if self.second else ())]
        stamp = (*((id(t), t._version, t.device) for t in sums), *self._settings())
        # What is called with other tensors for a while, such as a teacher, has its own put back.
        if (*stamp, id(self.weight)) == self._solved:
            return
        # Off, as a tensor of inference could not take part in a gradient later.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(sums[0].device.type, enabled=False),
        ):
            counts = self.counts
            known = counts > 0
            dtype = torch.float32
            weight = torch.zeros(self.classes, self.width, dtype=dtype, device=counts.device)
            bias = torch.zeros(self.classes, dtype=dtype, device=counts.device)
            center = torch.zeros(self.width, dtype=dtype, device=counts.device)
            if bool(known.any()):
                n, s = counts[known].double(), torch.cat(list(self.sums))[known].double()
                if self.centred:
                    center = (s.sum(0) / n.sum()).to(dtype)
                w, b = self._solution(n, s, center.double())  # as it is rounded
                weight[known], bias[known] = w.to(dtype), b.to(dtype)
        self.center, self.weight, self.bias = center, weight, bias
        self._solved = (*stamp, id(weight))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to a device, but keep the sums' precision, whatever the model's is."""
        own = {id(p) for name, p in self.named_parameters() if not name.startswith("logits.")}

        def precise(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            same = moved.dtype == tensor.dtype or id(tensor) not in own
            return moved if same else tensor.to(moved.device)

        return super()._apply(precise, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a head that is about to be asked computes its weights."""
        super().train(mode)
        if not mode and self._widths:
            self.solve()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits when training, and the solution's outputs otherwise."""
        if not self._widths:
            raise ungrown(self)
        if self.training:
            return self._trained(x)
        if not torch.compiler.is_compiling():  # what is exported or compiled was solved by eval()
            self.solve()
        with torch.autocast(x.device.type, enabled=False):
            h = self.lift(x.flatten(1).float())
            output = F.linear(h - self.center if self.centred else h, self.weight, self.bias)
        known = self.counts > 0
        return torch.where(known, output, torch.where(known.any(), MASKED, self._trained(x)))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.features}, width={self.width}, classes={self.classes}"

    def _trained(self, x: Tensor) -> Tensor:
        if self.logits is not None:
            return self.logits(x)  # type: ignore[no-any-return]
        # 0 for every class, and NaN where a feature is, so that a learner refuses the row.
        nothing = (0 * x.flatten(1).float()).sum(1, keepdim=True)
        return nothing.expand(-1, self.classes)

    @abstractmethod
    def _solution(self, n: Tensor, s: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (classes, width) and (classes,) from counts and sums of the known classes."""

    def _settings(self) -> tuple[float, ...]:
        """Numbers that the solution depends on."""
        return ()

    @torch.no_grad()
    def _count(self, features: Tensor, y: Tensor, sign: int) -> None:
        if y.dtype != torch.int64 or y.ndim != 1:
            raise InvalidBatch(
                f"y is {y.dtype} of shape {tuple(y.shape)}; it must be class ids, int64"
            )
        x = features.detach().flatten(1).float()
        if x.shape != (len(y), self.features) or not bool(x.isfinite().all()):
            told = "" if x.shape != (len(y), self.features) else " with NaN or infinity"
            raise InvalidBatch(
                f"features of shape {tuple(features.shape)}{told} for {len(y)} labels and a head "
                f"of {self.features}; give finite ones, (rows, features), as the head gets them"
            )
        low, high = (int(end) for end in torch.aminmax(y)) if len(y) else (0, -1)
        if low < 0 or high >= self.classes:
            raise LabelOutsideHead(
                f"labels span {low} to {high}, but the head has outputs 0 to {self.classes - 1}; "
                "grow it: begin_task(TaskSpec(id, classes=...))"
            )
        rows = torch.bincount(y, minlength=self.classes)
        if sign < 0 and bool((rows > self.counts).any()):
            worst = int((rows - self.counts).argmax())
            raise InvalidBatch(
                f"{int(rows[worst])} rows of class {worst} to remove, of "
                f"{int(self.counts[worst])} that came; remove each once, and only what came"
            )
        with torch.autocast(x.device.type, enabled=False):
            h = self.lift(x).double()
        sums = h.new_zeros(self.classes, self.width).index_add_(0, y, h)
        for n, (part, count) in enumerate(
            zip(sums.split(self._widths), rows.split(self._widths), strict=True)  # type: ignore[no-untyped-call]
        ):
            counts = getattr(self, f"counts{n}")
            counts.add_(count, alpha=sign)
            # Nothing of a class without rows stays, not even rounding.
            self.sums[n].add_(part, alpha=sign).mul_((counts > 0)[:, None])
        if self.second:
            self.moments.addmm_(h.T, h, alpha=sign)
            if sign < 0 and not bool(self.counts.any()):
                self.moments.zero_()

    def _widen(self, classes: int) -> None:
        # A block for each task, so that nothing is ever resized.
        if classes > 0:
            like, place = self._like.device, len(self._widths)
            self.register_buffer(
                f"counts{place}", torch.zeros(classes, dtype=torch.int64, device=like)
            )
            self.sums.append(
                held(torch.zeros(classes, self.width, dtype=torch.float64, device=like))
            )
            self._widths.append(classes)


class MeansHead(AnalyticHead):
    """Predict the class whose mean is nearest.

    output_c = |f - c|**2 - |f - m_c|**2, m_c = s_c / n_c, c the mean of all rows
    Mensink et al. 2013 (TPAMI), for classes that are added; Janson et al. 2022, arXiv:2210.04428,
    as the baseline for pretrained backbones.

    `NearestMeanHead` beside it holds means that somebody else computes, as iCaRL does from
    exemplars; here they are those of all rows.

    Args:
        features, classes, logits: as in `AnalyticHead`.

    Example:
        >>> head = MeansHead(2, classes=2)
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> head.add(x, torch.tensor([0, 0, 1, 1]))
        >>> head.eval()(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).tolist()
        [[-0.75, -1.75], [-4.75, 2.25]]
    """

    centred = True

    def _solution(self, n: Tensor, s: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        means = s / n[:, None] - center
        return 2 * means, -means.square().sum(1)


def held(values: Tensor) -> nn.Parameter:
    """Hold values that are saved and moved with a module, and that nothing trains.

    Example:
        >>> held(torch.ones(1)).requires_grad
        False
    """
    return nn.Parameter(values, requires_grad=False)
