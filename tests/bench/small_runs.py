"""Runs of a fraction of a second."""

from __future__ import annotations

from typing import Any

from lifelong.bench.suites import resolve

SMALL = {
    "optimizer": "sgd",
    "lr": 0.05,
    "epochs": 1,
    "limit": 20,
    "curve": 2,
    "width": 20,
    "batch": 8,
}


def small(strategy: str = "fine-tune", seed: int = 0, **given: Any) -> dict[str, Any]:
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return {**resolve("digits", strategy, SMALL | dotted), "seed": seed}


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What of a result depends on its configuration alone."""
    return {
        name: value
        for name, value in result.items()
        if name not in ("seconds", "rows_per_second", "peak_rss_mb", "growth_mb")
    }
