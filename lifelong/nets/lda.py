"""Streaming LDA: class means and one covariance, from sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lifelong.nets.analytic import AnalyticHead

NOISE = 1e-11
"""Variance that sums may be off by, as a share of the mean square of the features."""


class LDAHead(AnalyticHead):
    """Predict the likeliest class under normal distributions of one covariance (streaming LDA).

    output_c = (f - (m_c + c) / 2) . w_c, w_c = S^-1 (m_c - c)
    S = (1 - shrinkage) C + shrinkage v I
    C = (Q - sum over c of s_c s_c^T / n_c) / n, the covariance within classes, v its mean variance;
    c, the mean of all rows, adds the same to all outputs of a row
    Hayes & Kanan 2020, arXiv:1909.01520 (Deep SLDA).

    They update C with each row's distance from the mean as it then was, which depends on the order
    of rows; from the moments it is that of all rows at once. Their shrinkage is towards I itself,
    with 1e-4; here towards v I, so that it means the same whatever the scale of the features.

    Args:
        features, classes, logits: as in `AnalyticHead`.
        shrinkage: above 0 and up to 1, where all that counts is the distance to the means.

    Raises:
        ValueError: the shrinkage is out of range.

    Example:
        >>> head = LDAHead(2, classes=2)
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 8.0], [1.0, 0.0], [1.0, 8.0]])
        >>> head.add(x, torch.tensor([0, 0, 1, 1]))
        >>> head.eval()(torch.tensor([[0.9, 99.0]])).argmax(1)  # only the first feature tells
        tensor([1])
    """

    second = True
    centred = True

    def __init__(
        self,
        features: int,
        *,
        classes: int = 0,
        logits: nn.Module | None = None,
        shrinkage: float = 1e-3,
    ) -> None:
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}; it must be above 0, and 1 at most")
        super().__init__(features, classes=classes, logits=logits)
        self.shrinkage = shrinkage

    def _solution(self, n: Tensor, s: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        means = s / n[:, None]
        within = (self.moments.double() - means.T @ s) / n.sum()
        variance = within.diagonal().mean()
        rounding = NOISE * self.moments.double().diagonal().mean() / n.sum()
        # Where every row is its class's mean, nothing is known of the spread: distances count.
        known = variance > rounding
        floor = torch.where(known, (self.shrinkage * variance).clamp(min=rounding), 1.0)
        within = (1 - self.shrinkage) * torch.where(known, within, 0.0)
        within.diagonal().add_(floor)
        away = means - center
        factor, failed = torch.linalg.cholesky_ex(within)
        if bool(failed):
            raise ValueError(
                f"shrinkage is {self.shrinkage:g}, too little for features that are all but "
                "dependent; make it larger: 1e-6 or more"
            )
        weight = torch.cholesky_solve(away.T, factor).T
        return weight, -(away * weight).sum(1) / 2

    def _settings(self) -> tuple[float, ...]:
        return (self.shrinkage,)
