"""Suites, the runner, published tables, reports, and advice on which strategy to take."""

from lifelong.bench.advice import Advice, advise
from lifelong.bench.constraints import Constraints

__all__ = ["Advice", "Constraints", "advise"]
