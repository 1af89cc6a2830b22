"""A learner's own stream of randomness, apart from everybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor


class RandomState:
    """Torch's default generators, lent to one learner while it works.

    Dropout, augmentation and initialisation draw from torch's default generators. Inside
    `with random:` these continue the learner's own sequence; on leaving they are what they were
    before. When an error leaves the block, the learner's sequence does not advance.

    Example:
        >>> random = RandomState(0, torch.device("cpu"))
        >>> with random: first = torch.rand(1)
        >>> state = random.state_dict()
        >>> with random: second = torch.rand(1)
        >>> random.load_state_dict(state)
        >>> with random: bool(torch.rand(1) == second)
        True
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._depth = 0
        self._own = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if self._cuda is not None:
            self._own["cuda"] = torch.Generator(self._cuda).manual_seed(seed).get_state()
        self._lent: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._lent = self._defaults()
            self._set_defaults(self._own)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            if error is None:
                self._own = self._defaults()
            self._set_defaults(self._lent)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Draw from the learner's sequence without advancing it."""
        with self:
            before = self._defaults()
            try:
                yield
            finally:
                self._set_defaults(before)

    def state_dict(self) -> dict[str, Tensor]:
        """The generators' states, by device type."""
        return dict(self._own)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state; a GPU's is left alone when it was saved without one."""
        self._own = {name: state.get(name, own).cpu().clone() for name, own in self._own.items()}

    def _defaults(self) -> dict[str, Tensor]:
        states = {"cpu": torch.default_generator.get_state()}
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return states

    def _set_defaults(self, states: dict[str, Tensor]) -> None:
        torch.default_generator.set_state(states["cpu"])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states["cuda"], self._cuda)


def scattered(key: Tensor, salt: int = 0) -> Tensor:
    """Give each row's id a number in [0, 1) that looks random and is always the same.

    Args:
        key: (rows,) int64.
        salt: choices of different salts have nothing to do with each other.

    Example:
        >>> key = torch.arange(1000)
        >>> bool((scattered(key) == scattered(key)).all()), round(float(scattered(key).mean()), 1)
        (True, 0.5)
    """
    # The salt is multiplied by an odd number, the id by 2**64 / golden ratio, as a signed number.
    mixed = (key + salt * 0x2545F4914F6CDD1D % 2**63) * -7046029254386353131
    mixed = (mixed ^ (mixed >> 32)) * -4658895280553007687
    return ((mixed >> 40) & 0xFFFFFF).float() / 2**24
