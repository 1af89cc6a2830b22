"""The features of a model: what its head, its last layer, is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Tap:
    """Hold what a head was given in the last forward pass.

    Attributes:
        features: (rows, ...) the head's first input, with its gradient's history.
    """

    _features: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """The head's input.

        Raises:
            ValueError: no forward pass has gone through the head yet.
        """
        if self._features is None:
            raise ValueError(
                "the head has been given nothing yet; call the model first, and make sure that its "
                "forward calls the head as a module"
            )
        return self._features

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        self._features = inputs[0]


@contextmanager
def tapped(model: nn.Module) -> Iterator[Tap]:
    """Look at the features of a model, within the context.

    Raises:
        ValueError: the model has no head; see `head_of`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with tapped(net) as tap:
        ...     output = net(torch.zeros(5, 4))
        >>> tap.features.shape
        torch.Size([5, 3])
    """
    tap = Tap()
    hook = head_of(model).register_forward_pre_hook(tap._see)
    try:
        yield tap
    finally:
        hook.remove()


def head_of(model: nn.Module) -> nn.Module:
    """Find the head of a model: its attribute `head`, else the last linear layer in its order.

    Raises:
        ValueError: there is neither.

    Example:
        >>> head_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        Linear(in_features=3, out_features=2, bias=True)
    """
    named = getattr(model, "head", None)
    if isinstance(named, nn.Module):
        return named
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no module `head` and no linear layer, so its features "
            "are not known; name its last layer `head`"
        )
    return linear[-1]
