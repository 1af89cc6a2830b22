"""Orthogonal: what a task adds to a network stays orthogonal to what earlier ones added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.strategies.quadratic import checked_strength


class Orthogonal(Strategy):
    """Keep the set of adapters that learns orthogonal to those of earlier tasks; prompts, too.

    penalty = strength * sum over layers, earlier tasks i of |A_i A_t'|**2     (`LoRA`)
    Wang et al. 2023, arXiv:2310.14152 (O-LoRA); A is what the paper transposes, the way down.

    penalty = strength * sum over blocks, T of |T T' - I|**2, T = keys, attentions, values
    Smith et al. 2023, arXiv:2211.13218, in `Prompted`.

    The network does the rest: `add_lora(model, sets="summed")` adds a set with each task, freezes
    the earlier ones and sums them all. O-LoRA's code takes |.| in place of the paper's square.

    Args:
        strength: 0 or more.

    Raises:
        ValueError: a negative strength; while learning, a model in which nothing can overlap.

    Example:
        >>> Orthogonal(strength=0.5)
        Orthogonal(strength=0.5)
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = checked_strength(strength)

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor:
        """Compute how much the newest parts overlap with earlier ones."""
        del batch, output
        parts = [getattr(module, "overlap", None) for module in learner.model.modules()]
        found = [part() for part in parts if callable(part)]
        if not found:
            raise ValueError(
                f"nothing in {type(learner.model).__name__} can overlap; make it with "
                'add_lora(model, sets="summed"), or as a Prompted'
            )
        return self.strength * torch.stack(found).sum()
