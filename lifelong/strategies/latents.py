"""Latents: put each new row through the frozen trunk once, and keep what comes out of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import dropwhile

import torch

from lifelong.core.batch import Batch
from lifelong.core.forward import forward
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets import LatentModel
from lifelong.strategies.exemplars import Exemplars
from lifelong.strategies.icarl import ICaRL
from lifelong.strategies.replay import Replay


class Latents(Strategy):
    """Turn the rows of a batch into their latents, for all strategies that follow in the list.

    x <- {"latent": trunk(x)}
    Pellegrini et al. 2020, arXiv:1912.01100 (latent replay): `[Latents(), Replay(500)]`.

    Strategies after it, such as `Replay` and `DERpp`, thus keep latents in place of rows, replay
    them behind the trunk, and spare its pass. The trunk is frozen, where the paper slows its
    learning down, so a latent never grows old. `Exemplars`, `ICaRL` and replay with fill="task"
    take their rows from the task itself: put them before.

    Raises:
        ValueError: from `extend`, when the model is no `LatentModel`, or one of those comes after.

    Example:
        >>> from torch import nn
        >>> from lifelong.strategies import Replay
        >>> net = LatentModel(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> replay = Replay(9)
        >>> rest = [p for p in net.parameters() if p.requires_grad]
        >>> learner = Learner(net, torch.optim.SGD(rest, lr=0.1), [Latents(), replay])
        >>> loss = learner.observe(Batch.of(torch.zeros(2, 4), torch.tensor([0, 1])))
        >>> {name: tuple(column.shape) for name, column in replay.memory.all().items()}["x/latent"]
        (2, 3)
    """

    @torch.no_grad()
    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Pass all rows through the trunk."""
        model = learner.model
        if not isinstance(model, LatentModel):
            raise ValueError(
                f"the model is a {type(model).__name__}, which has no trunk; make it a "
                "lifelong.nets.LatentModel(trunk, rest)"
            )
        for strategy in dropwhile(lambda other: other is not self, learner.strategies):
            if _from_task(strategy):
                raise ValueError(
                    f"{strategy!r} comes after Latents, but takes its rows from the task, not from "
                    "the steps; put it before Latents in the list"
                )
        if isinstance(batch.x, dict) and batch.x.keys() == {"latent"}:
            return batch
        with learner.autocast():
            return replace(batch, x={"latent": forward(model.trunk, batch.x)})


def _from_task(strategy: Strategy) -> bool:
    """Tell whether a strategy keeps rows as `end_task` is given them, to append them in steps.

    Example:
        >>> _from_task(Replay(9)), _from_task(Replay(9, fill="task"))
        (False, True)
    """
    while isinstance(inner := getattr(strategy, "inner", None), Strategy):  # of an `Adaptive`
        strategy = inner
    if isinstance(strategy, Replay) and strategy.fill == "task":
        return True
    return isinstance(strategy, Exemplars | ICaRL)
