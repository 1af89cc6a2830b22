"""The command line: thin commands over what the library does."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from lifelong.commands import advise, bench, past, service
from lifelong.commands.arguments import Parser
from lifelong.core.errors import LifelongError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 1 for an error, 2 for wrong use, 130 for ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    options.command = shlex.join(["lifelong", *given])
    try:
        code: int = options.act(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\nstopped{options.stopped}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what it prints to was closed, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LifelongError, ValueError, OSError) as error:
        print(f"lifelong: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return code


def parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    whole = Parser(
        prog="lifelong", description="Models that go on learning and keep what they knew."
    )
    whole.set_defaults(stopped="")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for part in (bench, advise, service, past):
        part.add(commands)
    return whole


if __name__ == "__main__":
    raise SystemExit(main())
