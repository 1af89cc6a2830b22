"""Herding: the order of rows whose first ones stand best for all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def herding(features: Tensor, count: int) -> Tensor:
    """Choose rows one by one so that the mean of those chosen stays close to the mean of all.

    row_k = argmin over the rows left of |mean - (features of the k - 1 chosen + its own) / k|
    Welling 2009, "Herding dynamical weights to learn" (ICML); Rebuffi et al. 2017,
    arXiv:1611.07725, algorithm 4.

    Args:
        features: (rows, d).
        count: how many; all rows where there are fewer.

    Returns:
        (count,) int64 indices in the order of choice.

    Example:
        >>> herding(torch.tensor([[0.0], [4.0], [9.0], [3.0]]), 2).tolist()
        [1, 3]
    """
    features = features.double()
    mean, squares = features.mean(0), features.square().sum(1)
    total = torch.zeros_like(mean)
    order = torch.empty(min(count, len(features)), dtype=torch.int64, device=features.device)
    for k in range(len(order)):
        # |(k + 1) mean - total - f|**2, without what is the same for every row
        cost = squares - 2 * features @ ((k + 1) * mean - total)
        cost[order[:k]] = torch.inf
        order[k] = cost.argmin()
        total += features[order[k]]
    return order
