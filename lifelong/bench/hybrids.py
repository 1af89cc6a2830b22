"""Combinations of strategies that have proved to go together, by short names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Several strategies under one name, with the settings that they want together.

    Attributes:
        parts: the names of the strategies joined by `+`, in their order.
        when: when to take it.
        settings: of the strategies, by name, where they differ from the defaults.
    """

    parts: str
    when: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


HYBRIDS: Mapping[str, Hybrid] = {
    "anchored-replay": Hybrid(
        "ewc+replay",
        "a small memory; tasks whose weights must hardly move",
        {"ewc": {"strength": 10.0}, "replay": {"capacity": 200}},
    ),
    "taught-replay": Hybrid(
        "replay+lwf",
        "a small memory, and a copy of the model; the answers on replayed rows are held too",
        {"replay": {"capacity": 200}, "lwf": {"strength": 0.3, "rows": "all"}},
    ),
    "steady-features": Hybrid(
        "features+replay",
        "features that other parts of a system rely on, such as embeddings kept elsewhere",
        {"replay": {"capacity": 200, "policy": "balanced"}},
    ),
    "podnet": Hybrid(
        "pooled+replay",
        "images, a convolutional network that began with many classes; few more at a time",
        {"replay": {"capacity": 500, "policy": "balanced"}},
    ),
    "mean-er": Hybrid(
        "replay+mean-teacher",
        "no boundaries: an endless stream, with a memory and one copy of the model",
        {"replay": {"capacity": 200}},
    ),
    "dark-path": Hybrid(
        "si+der++",
        "a small memory, tasks that come back, no pass over their rows at the end",
        {"si": {"strength": 0.1}, "der++": {"capacity": 200}},
    ),
    "day-and-night": Hybrid(
        "sleep+lwf",
        "cheap steps by day, and time to catch up between tasks",
        {"sleep": {"capacity": 200}, "lwf": {"strength": 0.1}},
    ),
}
"""Every hybrid by name; `lifelong run --strategy NAME` takes them as it takes strategies."""
