"""MeRGAN: memory replay GANs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.learner import Learner
from lifelong.nets.generators import GAN, Generator
from lifelong.strategies.apprentice import Apprentice
from lifelong.strategies.dgr import DGR, check_one
from lifelong.strategies.er_ace import counted
from lifelong.strategies.quadratic import checked_strength
from lifelong.strategies.scholar import Scholar


class MeRGAN(DGR):
    """Replay rows that a GAN makes of the old classes, and labels that were asked of it.

    "joint": the GAN learns from new rows and from those of the last GAN, as DGR's does.
    "alignment": it learns from new rows alone, and its maker is held to what it made before:
    maker's loss + strength * mean of (G(z, y) - G_last(z, y))**2, for old classes y
    Wu et al. 2018, arXiv:1809.02058.

    The classes of made rows are drawn as often as they came, a task weighing as much as any
    other. The GAN is `lifelong.nets.generators.GAN`, not an AC-GAN with Wasserstein's loss, and
    is told the class. The default strength is that of the authors' code, for pixels from 0 to 1.

    Args:
        replay: "joint" or "alignment".
        strength: of the alignment.
        rows, width, lr, scale, strict, tolerance, every, held: as in `DGR`.

    Raises:
        ValueError: there is no such way to replay, or a number is out of range.
        InvalidBatch: labels are no classes.
        GeneratorCollapsed: as in `DGR`.

    Example:
        >>> MeRGAN(replay="alignment").strength
        130.0
    """

    state: ClassVar[tuple[str, ...]] = (*DGR.state, "share")

    def __init__(
        self,
        replay: str = "joint",
        *,
        strength: float = 130.0,
        rows: int | None = None,
        width: int = 400,
        lr: float | None = None,
        scale: float | None = None,
        strict: bool = True,
        tolerance: float | None = None,
        every: int = 50,
        held: int = 500,
    ) -> None:
        super().__init__(
            "gan",
            rows=rows,
            width=width,
            lr=lr,
            scale=scale,
            strict=strict,
            tolerance=tolerance,
            every=every,
            held=held,
        )
        if replay not in ("joint", "alignment"):
            raise ValueError(f"replay is {replay!r}; choose 'joint' or 'alignment'")
        self.replay = replay
        self.strength = checked_strength(strength)
        make = partial(GAN, hidden=(width, width), conditional=True)
        self.apprentice, self.scholar = Apprentice(make, lr), Scholar(labels=False)
        self.share: list[float] = []
        """How often each class is among all rows so far."""
        self._coming: list[float] = []

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Count the classes; then as `DGR`."""
        y = torch.cat([batch.y for batch in data])
        counts = torch.bincount(y, minlength=len(self.share)).cpu().double()
        before = torch.tensor(self.share + [0.0] * (len(counts) - len(self.share))).double()
        self._coming = torch.lerp(before, counts / counts.sum(), 1 / (self.tasks + 1)).tolist()
        learned = self.trigger.on
        super().consolidate(learner, data)
        if learned:
            self.share = self._coming

    def known(self, learner: Learner, rows: Batch) -> Tensor:
        """Tell which rows are of classes that are made."""
        del learner
        made = torch.zeros(1 + max(len(self.share), int(rows.y.max())), dtype=torch.bool)
        made[: len(self.share)] = torch.tensor(self.share) > 0
        return made[rows.y.cpu()]

    def replayed(self, learner: Learner, batch: Batch) -> tuple[Batch, Tensor]:
        """Draw classes, and make rows of them."""
        y = self._drawn(self.share, self.rows or batch.new)
        generator = self.scholar.generator(self.apprentice)
        assert isinstance(batch.x, Tensor)
        with torch.no_grad():
            x = generator.sample(len(y), self.generator, y).to(batch.x.dtype)
        task = torch.full_like(y, -1)
        if learner.task_aware:
            home = {label: task.id for task in learner.tasks for label in task.classes}
            task = torch.tensor([home.get(c, -1) for c in range(len(self.share))])[y.cpu()].to(y)
        return Batch.of(x, y, task), torch.empty(0)

    def study(self, learner: Learner, new: Batch, made: Batch | None) -> None:
        """Learn from all rows, or from the new ones while aligned to the last generator."""
        if self.replay == "joint" or made is None:
            super().study(learner, new, made)
            return
        assert isinstance(new.x, Tensor)
        past, y = self.scholar.generator(self.apprentice), made.y

        def apart(net: Generator) -> Tensor:
            assert isinstance(net, GAN)
            assert isinstance(past, GAN)
            z = net.noise(len(y), net.latents, chance=self.generator)
            return self.strength * F.mse_loss(net.make(z, y), past.make(z, y))

        self.apprentice.learn(new.x, new.y, counted(new), self.generator, apart)

    def sampled(self, generator: Generator, rows: int, *, past: bool = False) -> Tensor:
        """Make rows of classes drawn as often as they came."""
        y = self._drawn(self.share if past else self._coming, rows)
        with torch.no_grad():
            return generator.sample(rows, self.generator, y)

    def check(self, batch: Batch) -> None:
        """Raise `InvalidBatch` unless rows of such classes can be made."""
        if batch.y.dtype != torch.int64:
            raise InvalidBatch(
                f"y is {batch.y.dtype}; MeRGAN makes rows of classes (int64): take DGR for others"
            )
        super().check(batch)

    def check_answers(self, batch: Batch, output: Any) -> None:
        """Raise `InvalidBatch` unless made rows can be compared; no label is the model's."""
        check_one(batch, output, "MeRGAN")

    def _drawn(self, share: list[float], rows: int) -> Tensor:
        chances = torch.tensor(share)
        drawn = torch.multinomial(chances, rows, replacement=True, generator=self.generator)
        return drawn.to(self.device)
