"""A generator that learns beside the model, with all that it takes to go on learning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Adam

from lifelong.core.errors import NonFiniteLoss, StateMismatch
from lifelong.core.strategy import State
from lifelong.nets.generators import Generator

Make = Callable[..., Generator]
"""Makes a generator of `shape`, `scale` and `bytes`."""


class Apprentice:
    """A generator, its Adam, and the running average of its weights.

    It begins with the first rows, which tell it their shape. Its state is plain: tensors by name.

    Attributes:
        net: the generator; None before it has begun.
        device: where it computes; to be set before it begins or is loaded.

    Args:
        make: the generator.
        lr: of Adam; None for the generator's own.

    Example:
        >>> from lifelong.nets.generators import VAE
        >>> chance, x = torch.Generator().manual_seed(0), torch.zeros(4, 3)
        >>> apprentice = Apprentice(VAE)
        >>> apprentice.begin(x, None, chance)
        >>> apprentice.learn(x, torch.zeros(4), torch.ones(4), chance)
        >>> apprentice.frozen(apprentice.weights()).sample(2, chance).shape
        torch.Size([2, 3])
    """

    net: Generator | None = None
    device: torch.device = torch.device("cpu")

    def __init__(self, make: Make, lr: float | None = None) -> None:
        if lr is not None and not 0 < lr < math.inf:
            raise ValueError(f"lr is {lr}; it must be positive, or None for the generator's own")
        self.make = make
        self.lr = lr
        self.average: dict[str, Tensor] = {}

    def begin(self, x: Tensor, scale: float | None, chance: torch.Generator) -> None:
        """Make the generator for rows like these, its first weights from `chance`."""
        with torch.random.fork_rng(devices=[]):
            seed = torch.randint(2**62, (), generator=chance)
            torch.default_generator.manual_seed(int(seed))
            net = self._built(list(x.shape[1:]), scale, x.dtype == torch.uint8)
        net.fit(x)
        if net.averaging:
            self.average = {n: p.detach().clone() for n, p in net.named_parameters()}

    def learn(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        chance: torch.Generator,
        more: Callable[[Generator], Tensor] | None = None,
    ) -> None:
        """Take one step on the weighted mean of the rows' losses, and of one `more`.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite (looked at on the CPU alone, where that
                waits for nothing); no step is taken.
        """
        assert self.net is not None
        loss = torch.dot(self.net.loss(x, y, chance), weight) / weight.sum()
        if more is not None:
            loss = loss + more(self.net)
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NonFiniteLoss(
                "the generator's loss is not finite; lower its lr, or give the scale of the rows"
            )
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        if self.average:
            weights = [p.detach() for p in self.net.parameters()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.net.averaging)

    def weights(self) -> dict[str, Tensor]:
        """Copy the weights to sample with, and the buffers."""
        assert self.net is not None
        return {n: t.detach().clone() for n, t in {**self.net.state_dict(), **self.average}.items()}

    def frozen(self, weights: dict[str, Tensor]) -> Generator:
        """Make a copy of the generator with these weights, never to learn."""
        assert self.net is not None
        made = copy.deepcopy(self.net).requires_grad_(False).eval()
        made.load_state_dict(weights)
        return made

    def state_dict(self) -> State:
        """Everything; nothing before it has begun."""
        if self.net is None:
            return {}
        moments = {
            name: dict(self.adam.state[p])
            for name, p in self.net.named_parameters()
            if p in self.adam.state
        }
        return {
            "shape": list(self.net.shape),
            "scale": float(self.net.spread) if self.net.bounded else None,
            "bytes": self.net.bytes,
            "net": dict(self.net.state_dict()),
            "average": self.average,
            "moments": moments,
        }

    def load_state_dict(self, state: State) -> None:
        """Become the apprentice whose state this is.

        Raises:
            StateMismatch: it is of another kind of generator, or misshaped.
        """
        self.net, self.average = None, {}
        if not state:
            return
        with torch.random.fork_rng(devices=[]):
            net = self._built(state["shape"], state["scale"], state["bytes"])
        net.load_state_dict(state["net"])
        parameters = dict(net.named_parameters())
        for name, tensor in state["average"].items():
            own = parameters[name]
            self.average[name] = _fitting(tensor, own.shape, own.device, f"average {name}")
        for name, moments in state["moments"].items():
            own = parameters[name]
            self.adam.state[own] = {
                key: _fitting(
                    tensor, own.shape if tensor.ndim else (), own.device, f"{key} of {name}"
                )
                for key, tensor in moments.items()
            }

    def _built(self, shape: list[int], scale: float | None, bytes: bool) -> Generator:
        self.net = self.make(shape, scale=scale, bytes=bytes).to(self.device)
        lr = self.net.lr if self.lr is None else self.lr
        self.adam = Adam(self.net.parameters(), lr=lr, betas=self.net.betas, fused=True)
        return self.net


def _fitting(tensor: Tensor, shape: tuple[int, ...], device: torch.device, name: str) -> Tensor:
    if tensor.shape != shape:
        raise StateMismatch(
            f"the generator's {name} is {tuple(tensor.shape)} in the state, {tuple(shape)} here"
        )
    return tensor.detach().to(device, copy=True)  # counts of steps too: a fused Adam wants them
