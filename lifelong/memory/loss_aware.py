"""A policy that lets go first of the rows that have least to teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.core.errors import StateMismatch
from lifelong.memory.reservoir import Reservoir
from lifelong.memory.slots import Slots
from lifelong.memory.state import expect


class LossAware(Reservoir):
    """Take rows in as a reservoir does, in place of rows whose score, such as their loss, is low.

    P(row i gives way) is proportional to exp(-score_i)
    Buzzega et al. 2020, arXiv:2010.05595 (loss-aware reservoir sampling, LARS).

    They scale the negative losses of the memory to the range 0 to 1, so that the row of the
    greatest loss never goes; with exp(-loss), which is the probability that the model gives to a
    row's label, every row can. Rows that nobody has rated yet count as the highest score there is.
    Without any ratings this is a reservoir.

    Example:
        >>> policy, chance = LossAware(3), torch.Generator().manual_seed(0)
        >>> _ = policy.place(None, 3, chance)
        >>> policy.rate(torch.tensor([0, 1, 2]), torch.tensor([50.0, 0.0, 50.0]))
        >>> slots = [policy.place(None, 1, chance)[0].tolist() for _ in range(9)]
        >>> next(slot for slot in slots if slot)  # the first row that came in took this place
        [1]
    """

    name = "loss-aware"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._scores: NDArray[np.float32] = np.full(capacity, np.nan, dtype=np.float32)

    @property
    def scores(self) -> Tensor:
        """The score of every row held, (rows,) on the CPU; the highest for those not rated."""
        held = torch.from_numpy(self._scores[: self.held].copy())
        rated = held[~held.isnan()]
        return torch.where(held.isnan(), rated.max() if len(rated) else 0.0, held)

    def rate(self, slots: Tensor, scores: Tensor) -> None:
        """Note the scores of some rows held, (rows,) each; of a slot named twice the last counts.

        Raises:
            ValueError: a score is not finite.
        """
        if not scores.isfinite().all():
            raise ValueError(f"{int((~scores.isfinite()).sum())} scores are NaN or infinite")
        self._scores[slots.cpu().numpy()] = scores.float().cpu().numpy()

    def place(
        self, group: Tensor | None, rows: int, generator: torch.Generator
    ) -> tuple[Slots, Slots | None]:
        """Take rows as a reservoir does; choose by their scores whose places they take."""
        before = self.held
        slots, source = super().place(group, rows, generator)
        old = slots < before
        if old.any() and not np.isnan(self._scores[:before]).all():
            slots[old] = self._lowest(int(old.sum()), before, generator)
        self._scores[slots] = np.nan
        return slots, source

    def _lowest(self, count: int, held: int, generator: torch.Generator) -> Slots:
        """Draw distinct slots, one after the other in proportion to exp(-score)."""
        scores = self._scores[:held]
        scores = np.where(np.isnan(scores), np.nanmax(scores), scores)
        # The lowest of score + log(waiting time) are a draw of that kind (exponential race).
        waiting = torch.rand(held, generator=generator, dtype=torch.float64).numpy()
        order = scores + np.log(-np.log1p(-waiting) + 1e-300)
        chosen: Slots = np.argpartition(order, count - 1)[:count]
        return chosen

    def forget(self, dropped: Slots) -> tuple[Slots, Slots]:
        """Drop rows with their scores."""
        gaps, moved = super().forget(dropped)
        self._scores[gaps] = self._scores[moved]
        self._scores[self.held :] = np.nan
        return gaps, moved

    def _cut(self, capacity: int) -> None:
        super()._cut(capacity)
        self._scores = self._scores[:capacity].copy()

    def state_dict(self) -> dict[str, Any]:
        """Return the two counts and the scores."""
        scores = torch.from_numpy(self._scores[: self.held].copy())
        return {**super().state_dict(), "scores": scores}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the counts and the scores over."""
        expect(state, self.state_dict(), "loss-aware policy", fixed=("capacity",))
        scores = state["scores"]
        if (scores.shape, scores.dtype) != ((state["held"],), torch.float32):
            raise StateMismatch(
                f"{tuple(scores.shape)} scores of {state['held']} rows; the state is damaged"
            )
        super().load_state_dict({k: part for k, part in state.items() if k != "scores"})
        self._scores[:] = np.nan
        self._scores[: self.held] = scores.cpu().numpy()
