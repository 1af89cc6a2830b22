"""A front, a backbone and a head as one model."""

from __future__ import annotations

from torch import Tensor, nn

from lifelong.core.forward import wants_task


class Classifier(nn.Module):
    """Pass rows through a front (such as `Pixels`), a backbone and a head.

    logits = head(backbone(front(x)))

    Args:
        backbone: inputs to features, with its number of `features` as an attribute.
        head: features to logits: `nn.Linear` where the classes are fixed, or one that grows.
        front: what comes first, or None.

    Raises:
        ValueError: a head that wants the task (`TaskClassifier` passes it on), or one of another
            width than the backbone.

    Example:
        >>> import torch
        >>> from lifelong.nets import MLP, Pixels
        >>> net = Classifier(MLP(784, hidden=(32,)), nn.Linear(32, 10), front=Pixels())
        >>> images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        >>> net(images).shape, net.embed(images).shape
        (torch.Size([2, 10]), torch.Size([2, 32]))
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, front: nn.Module | None = None):
        super().__init__()
        if wants_task(head) != wants_task(self):
            name, other = type(head).__name__, "Task" * wants_task(head) + "Classifier"
            wants = "wants" if wants_task(head) else "does not take"
            raise ValueError(f"{name} {wants} the task; put it into a {other}")
        made = getattr(backbone, "features", None)
        taken = getattr(head, "features", getattr(head, "in_features", made))
        if made is not None and made != taken:
            raise ValueError(
                f"the backbone makes {made} features and the head takes {taken}; "
                f"make the head with {made}"
            )
        self.front = nn.Identity() if front is None else front
        self.backbone = backbone
        self.head = head

    def embed(self, x: Tensor) -> Tensor:
        """Compute the features, (rows, features): what the head sees."""
        return self.backbone(self.front(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits, (rows, classes)."""
        return self.head(self.embed(x))  # type: ignore[no-any-return]


class TaskClassifier(Classifier):
    """A classifier whose head wants the task of each row, such as `MultiHead`.

    logits = head(backbone(front(x)), task)

    Raises:
        ValueError: a head that does not take the task (`Classifier` is for those), or one of
            another width than the backbone.

    Example:
        >>> import torch
        >>> from lifelong.core.task import TaskSpec
        >>> from lifelong.nets import MLP, MultiHead
        >>> net = TaskClassifier(MLP(4, hidden=(8,)), MultiHead(8))
        >>> new = net.head.grow(TaskSpec(0, classes=(0, 1)))
        >>> net(torch.zeros(3, 4), task=torch.tensor([0, 0, -1])).shape
        torch.Size([3, 2])
    """

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Compute the logits, (rows, classes); task is (rows,) int64, -1 where not known."""
        return self.head(self.embed(x), task)  # type: ignore[no-any-return]
