"""How words of a command line are read, by all commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from lifelong.core.errors import MissingExtra, UnknownName


class Parser(argparse.ArgumentParser):
    """A parser of one command, or of all, that names the option nearest to an unknown one.

    Example:
        >>> parser = Parser(prog="lifelong", exit_on_error=False)
        >>> _ = parser.add_argument("--storage")
        >>> parser.parse_known_args(["--storage", "2MB"])
        (Namespace(storage='2MB'), [])
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse words; leave, with the usage of this command, where an option is unknown."""
        found, rest = super().parse_known_args(args, namespace)
        wrong = next((word.partition("=")[0] for word in rest if word.startswith("--")), None)
        if wrong is not None:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(str(UnknownName("option", wrong, known)))
        return found, rest


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
