"""How words of a command line are read, by all commands."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from typing import Any

from lifelong.core.errors import MissingExtra


def setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, whose value is JSON or else a string.

    Raises:
        ValueError: it has not that form.

    Example:
        >>> setting("ewc.strength=100")
        ('ewc.strength', 100)
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text!r}; write KEY=VALUE, such as lr=0.1 or ewc.strength=100")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def pair(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE as a type of argparse."""
    try:
        return setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seeds(text: str) -> list[int]:
    """Read seeds, such as 0,1,2, as a type of argparse.

    Example:
        >>> seeds("0,1,2")
        [0, 1, 2]
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; write numbers such as 0,1,2") from None
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}; seeds are 0 or more")
    if len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return found


def need(extra: str, *modules: str) -> None:
    """Say before the work what would be missing after it."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtra(module, extra)
