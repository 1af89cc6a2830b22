"""A look at one forward pass: at the features, and at what some modules give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lifelong.core.features import head_of


class Glimpse:
    """See what a model's head is given in the next forward pass, and what other modules give.

    That is the next pass in the mode that the model is in now: while it trains, passes in eval
    mode are passed over, such as those that other strategies look ahead with. The hooks are gone
    as soon as the head has been reached, so that a model is not left with any between two steps:
    not for copies of it, nor for whoever looks at it otherwise. Should the step fail before, the
    learner takes them off.

    Attributes:
        maps: by the name of a module, what it gave last.

    Example:
        >>> import torch
        >>> net, glimpse = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), Glimpse()
        >>> glimpse.watch(net, ["0"])
        >>> output = net(torch.zeros(5, 4))
        >>> glimpse.features.shape, glimpse.maps["0"].shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    def __init__(self) -> None:
        self.maps: dict[str, Tensor] = {}
        self._features: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        self._awaited: Callable[[], bool] = lambda: True

    @property
    def features(self) -> Tensor:
        """The head's input.

        Raises:
            ValueError: no forward pass has gone through the head.
        """
        if self._features is None:
            raise ValueError(
                "the head has been given nothing; make sure that the model's forward calls its "
                "head as a module, and that the learner is not compiled (compile=False)"
            )
        return self._features

    def watch(self, model: nn.Module, layers: Sequence[str] = ()) -> None:
        """Look at the next forward pass of a model in this mode, at these modules and its head.

        Raises:
            ValueError: the model has no head, or no module of that name.
        """
        self._let_go()
        self.maps, self._features = {}, None
        named, training = dict(model.named_modules()), model.training
        self._awaited = lambda: model.training is training
        for name in layers:
            if name not in named:
                raise ValueError(
                    f"{type(model).__name__} has no module {name!r}; it has {sorted(named)[1:6]}"
                )
            self._hooks.append(named[name].register_forward_hook(self._keep(name)))
        self._hooks.append(head_of(model).register_forward_pre_hook(self._see))

    def rows(self, where: slice) -> Glimpse:
        """Take what was seen of some of the rows."""
        taken = Glimpse()
        taken._features = self.features[where]
        taken.maps = {name: seen[where] for name, seen in self.maps.items()}
        return taken

    def _keep(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            if self._awaited():
                self.maps[name] = output

        return keep

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        if self._awaited():
            self._features = inputs[0]
            self._let_go()

    def _let_go(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._awaited = lambda: True
