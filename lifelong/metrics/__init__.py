"""The accuracy matrix and what is read off it; what learning costs."""

from lifelong.metrics.confidence import Interval, interval, t_quantile
from lifelong.metrics.cost import (
    Cost,
    CostTimer,
    cost_ratio,
    peak_rss_mb,
    reset_peak_rss,
    state_bytes,
)
from lifelong.metrics.matrix import (
    anytime_accuracy,
    average_accuracy,
    average_anytime_accuracy,
    backward_transfer,
    check_matrix,
    forgetting,
    forward_transfer,
    plasticity,
)

__all__ = [
    "Cost",
    "CostTimer",
    "Interval",
    "anytime_accuracy",
    "average_accuracy",
    "average_anytime_accuracy",
    "backward_transfer",
    "check_matrix",
    "cost_ratio",
    "forgetting",
    "forward_transfer",
    "interval",
    "peak_rss_mb",
    "plasticity",
    "reset_peak_rss",
    "state_bytes",
    "t_quantile",
]
