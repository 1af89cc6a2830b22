"""A head that classifies by the nearest class mean, as iCaRL does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.forward import wants_task
from lifelong.core.task import Growing, TaskSpec
from lifelong.nets.heads import MASKED


class NearestMeanHead(nn.Module):
    """Learn through a linear head, predict by the distance to the mean of each class.

    training: logits = head(features)
    eval:     output_c = -|f - m_c|**2, f = features / |features|, m_c the class mean, of norm 1
    Rebuffi et al. 2017, arXiv:1611.07725, equation 2.

    The means are buffers, so that they are saved, exported and served with the model. Somebody
    has to fill them (`fill`; the strategy `ICaRL` does after each task). In eval mode a class
    without a mean reads `MASKED`; as long as there is no mean at all, the logits are shown.

    Args:
        head: what is trained: a `GrowingHead`, with whose blocks the means grow, or `nn.Linear`.

    Shapes: (rows, features) to (rows, classes).

    Raises:
        ValueError: a head that wants the task, or whose width is not known.

    Example:
        >>> head = NearestMeanHead(nn.Linear(2, 2))
        >>> head.fill(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> head.eval()(torch.tensor([[3.0, 4.0]])).argmax(1)
        tensor([1])
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        width = getattr(head, "features", getattr(head, "in_features", None))
        if width is None or wants_task(head):
            raise ValueError(
                f"{type(head).__name__} cannot be trained behind class means; take a GrowingHead "
                "or nn.Linear"
            )
        self.features = int(width)
        self.logits = head
        self._widths: list[int] = []
        like = next(head.parameters(), torch.empty(0))
        self.register_buffer("_like", like.detach().new_empty(0), persistent=False)
        self._like: Tensor
        self._widen(int(getattr(head, "classes", getattr(head, "out_features", 0))))

    @property
    def classes(self) -> int:
        """How many outputs there are."""
        return sum(self._widths)

    @property
    def means(self) -> Tensor:
        """(classes, features) the means; rows of NaN where there is none yet."""
        blocks = [getattr(self, f"means{n}") for n in range(len(self._widths))]
        return torch.cat(blocks) if blocks else self._like.new_empty(0, self.features)

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Let the head grow, and make room for the means of its new outputs."""
        if not isinstance(self.logits, Growing):
            return []
        new = self.logits.grow(task)
        self._widen(int(getattr(self.logits, "classes", self.classes)) - self.classes)
        return new

    @torch.no_grad()
    def fill(self, means: Tensor) -> None:
        """Set the means, (classes, features), NaN for a class without; each is scaled to norm 1.

        Raises:
            ValueError: they are of another shape.
        """
        if means.shape != (self.classes, self.features):
            raise ValueError(
                f"means of shape {tuple(means.shape)} for a head of {self.classes} classes and "
                f"{self.features} features; give a row for each class"
            )
        parts = F.normalize(means, dim=1).split(self._widths)  # type: ignore[no-untyped-call]
        for n, part in enumerate(parts):
            getattr(self, f"means{n}").copy_(part)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits when training, and the negative distances otherwise."""
        logits: Tensor = self.logits(x)
        if self.training:
            return logits
        means = self.means.to(x.dtype)
        known = ~means.isnan().any(1)
        # No branch on what is known: the same graph serves before and after the first mean.
        means = torch.where(known[:, None], means, 0)
        f = F.normalize(x, dim=-1)
        distance = f.square().sum(-1, keepdim=True) + means.square().sum(1) - 2 * F.linear(f, means)
        return torch.where(known, -distance, torch.where(known.any(), MASKED, logits))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.features}, classes={self.classes}"

    def _widen(self, classes: int) -> None:
        # A buffer for each block, so that nothing is ever resized.
        if classes > 0:
            block = torch.full_like(self._like.new_empty(classes, self.features), torch.nan)
            self.register_buffer(f"means{len(self._widths)}", block)
            self._widths.append(classes)


def linear_outputs(head: nn.Module) -> list[nn.Linear]:
    """Find the linear layers whose outputs, one after the other, are those of a head.

    Raises:
        ValueError: the outputs are not linear in parameters of their own for each class.

    Example:
        >>> linear_outputs(NearestMeanHead(nn.Linear(2, 3)))
        [Linear(in_features=2, out_features=3, bias=True)]
    """
    if isinstance(head, NearestMeanHead):
        head = head.logits
    layers = list(getattr(head, "blocks", [head]))
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if len(linear) < len(layers) or not linear:
        raise ValueError(
            f"{type(head).__name__} has outputs without linear weights of their own; take "
            "nn.Linear, GrowingHead or MultiHead"
        )
    return linear
