"""The settings of a canary."""

from __future__ import annotations

from dataclasses import dataclass

from lifelong.serve.traffic import Ramp


@dataclass(frozen=True, slots=True)
class Canary:
    """How a candidate that passed the gate answers some of the users before all of them.

    Attributes:
        share: of the users, 0 to 1: one share, or growing ones. None for no canary.
        rows: labelled rows that the challenger has to answer at each share, at least.
        seconds: for which each share lasts, at least.
        alpha: the probability of withdrawing a challenger that is as good as the champion.
        patience: seconds after which a canary that cannot be decided is withdrawn.

    Raises:
        ValueError: a number is out of range, or a share is smaller than the one before.
    """

    share: float | list[float] | None = None
    rows: int = 100
    seconds: float = 0.0
    alpha: float = 0.05
    patience: float = 86400.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.seconds < 0 or not self.patience > 0 or not 0 < self.alpha < 1:
            raise ValueError(
                f"rows {self.rows}, seconds {self.seconds}, alpha {self.alpha}, patience "
                f"{self.patience}; give 1 row and 0 seconds or more, an alpha between 0 and 1, "
                "and a patience above 0 seconds"
            )
        if self.share is not None:
            self.ramp()

    def ramp(self) -> Ramp:
        """Return the share by the labelled rows that the challenger has answered."""
        shares = self.share if isinstance(self.share, list) else [self.share or 0.0]
        if not shares or min(shares) <= 0:
            raise ValueError(f"share is {self.share}; give shares above 0, such as [0.05, 0.25]")
        return Ramp([(step * self.rows, share) for step, share in enumerate(shares)])
