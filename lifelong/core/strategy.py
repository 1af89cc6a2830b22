"""What a method of continual learning is: something to do at five moments of learning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import StateMismatch

if TYPE_CHECKING:
    from lifelong.core.learner import Learner

State = dict[str, Any]
"""Tensors, numbers, strings, None, and lists and dicts of them."""


_SHOWN = (bool, int, float, str)
"""What is short enough to be shown of a strategy."""


class Strategy:
    """A method of continual learning. It acts at five moments; each may change one thing.

    Strategies stand in a list, whose order is the order of their acts. They never know each
    other, the optimizer, or the structure of the model.

    Attributes:
        state: names of the attributes that outlive a step. Each holds tensors, numbers, strings,
            None, lists or dicts, or an object with `state_dict` and `load_state_dict`.
        only_read: those of them that `consolidate` does not change, such as a memory that it
            trains on; what it may change is copied first, to be put back if something fails.
        generator: the strategy's own randomness (CPU); the learner seeds it. `extend` and
            `penalty` change nothing that `state` names and draw only from here, so that a step
            that fails can be undone. A step may still fail after `project`, when what that makes
            is not finite; `after_step` is then not called.
        device: where the learner computes.
        row_losses: whether it needs the loss of each row, to weight or to measure rows; a learner
            whose loss gives a scalar then refuses the first batch.

    Example:
        >>> class Counter(Strategy):
        ...     state = ("steps",)
        ...     steps = 0
        ...     def after_step(self, learner, batch, output):
        ...         self.steps += 1
    """

    state: ClassVar[tuple[str, ...]] = ()
    only_read: ClassVar[tuple[str, ...]] = ()
    generator: torch.Generator
    device: torch.device
    row_losses: bool = False

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Before the forward pass: append rows to the batch (replay)."""
        del learner
        return batch

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """After the forward pass: a term to add to the loss (distillation)."""
        del learner, batch, output
        return 0.0

    def project(self, learner: Learner) -> bool | None:
        """After the backward pass: change the gradients in place (pulls, projections).

        Returns:
            Whether all of the gradient is finite now, if it has looked at all of it; the learner
            then need not. None otherwise.
        """

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """After every batch: look at the new weights, store rows. `output` is detached."""

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """At the end of a task: keep what later learning needs. `data` iterates many times."""

    def forget(self, keys: Tensor) -> int | None:
        """Drop whatever is kept of the rows with these ids, an int64 tensor.

        Returns:
            How many entries were erased, several of a row that was kept more than once; None, the
            default, stands for 0.
        """
        del keys
        return None

    def unlearn(self, learner: Learner, keys: Tensor) -> None:
        """Take what the rows with these ids have taught out of the model, where that is exact.

        Called before `forget`, which drops what is kept of them.
        """

    def acts(self, moment: str) -> bool:
        """Tell whether it does anything at a moment: whether its class defines it.

        One that acts through others, as a wrapper does, knows better than its class.
        """
        return getattr(type(self), moment) is not getattr(Strategy, moment)

    def attach(self, device: torch.device, seed: int) -> None:
        """Tie this strategy to one learner, which calls this once.

        Raises:
            ValueError: it belongs to a learner already.
        """
        if hasattr(self, "generator"):
            raise ValueError(
                f"this {type(self).__name__} already belongs to a learner; give each its own"
            )
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)

    def __repr__(self) -> str:
        """Show the constructor's arguments that attributes hold, where they are not the defaults.

        Example:
            >>> class Pull(Strategy):
            ...     def __init__(self, strength=1.0, *, decay=None):
            ...         self.strength, self.decay = strength, decay
            >>> Pull(3.0)
            Pull(strength=3.0)
        """
        given = [
            f"{name}={value!r}"
            for name, default in _settings_of(type(self)).items()
            if isinstance(value := getattr(self, name, default), (*_SHOWN, Strategy))
            and value != default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def state_dict(self) -> State:
        """Everything that changes and outlives a step. Tensors are referenced, not copied."""
        return self._gathered(self.state)

    def load_state_dict(self, state: State) -> None:
        """Take over a saved state, copying its tensors to the learner's device.

        Raises:
            StateMismatch: the state's keys are not those of this strategy.
        """
        expected = {*self.state, "generator"}
        if state.keys() != expected:
            raise StateMismatch(
                f"the state of {type(self).__name__} has {sorted(state)}, expected "
                f"{sorted(expected)}; it was saved by another strategy or version"
            )
        self._filled(state)

    def undo(self) -> Callable[[], None]:
        """Copy what `consolidate` may change; what is returned puts it back.

        Example:
            >>> from lifelong.strategies import EEIL
            >>> EEIL.only_read  # the memory, which is its largest part, is not copied
            ('memory',)
        """
        names = [name for name in self.state if name not in self.only_read]
        state = self._gathered(names) if self.only_read else self.state_dict()
        fresh = [n for n in names if getattr(getattr(self, n), "state_is_copied", False)]
        state = {n: part if n in fresh else _copied(part) for n, part in state.items()}
        return partial(self._filled if self.only_read else self.load_state_dict, state)

    def _gathered(self, names: Iterable[str]) -> State:
        own = {name: getattr(self, name) for name in names}
        parts = {
            name: value.state_dict() if hasattr(value, "state_dict") else value
            for name, value in own.items()
        }
        return {**parts, "generator": self.generator.get_state()}

    def _filled(self, state: State) -> None:
        for name in state.keys() - {"generator"}:
            own = getattr(self, name)
            if hasattr(own, "load_state_dict"):
                own.load_state_dict(state[name])
            else:
                setattr(self, name, _copied(state[name], self.device))
        self.generator.set_state(state["generator"].cpu())


def acts_at(strategy: Strategy, moment: str) -> bool:
    """Tell whether a strategy does anything at a moment, so that the others cost nothing.

    Example:
        >>> acts_at(Strategy(), "extend")
        False
    """
    return strategy.acts(moment)


def _settings_of(kind: type) -> dict[str, Any]:
    """List the parameters of a constructor with their defaults, also those that it hands on."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(base).parameters.values())
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        # Where the learner computes is no setting, though a memory's place may have its name.
        found |= {p.name: p.default for p in named if p.name not in {"device", *found}}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return found


def _copied(value: Any, device: torch.device | str | None = "cpu") -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {name: _copied(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part, device) for part in value)
    return value
