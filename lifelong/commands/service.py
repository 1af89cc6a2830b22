"""The commands that run a service and verify it."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

from lifelong.commands import past
from lifelong.core.errors import ConfigError, LifelongError, MissingExtra


def add(commands: Any) -> None:
    """Add the commands to a parser's."""
    serve = commands.add_parser("serve", help="serve a model and go on learning, until ctrl-C")
    serve.set_defaults(act=_serve)
    serve.add_argument("config", type=Path, metavar="CONFIG.yaml")

    audit = commands.add_parser("audit", help="verify a service's decisions, log and versions")
    audit.set_defaults(act=_audit)
    audit.add_argument("folder", type=Path, metavar="DIR")
    audit.add_argument("--config", type=Path, metavar="CONFIG.yaml", help=past.BESIDE)
    audit.add_argument(
        "--reproduce", nargs="+", metavar="N", default=[],
        help="make versions again from the log and compare them bit for bit; or: champion",
    )  # fmt: skip


def _serve(options: argparse.Namespace) -> int:
    if not options.config.is_file():  # before the seconds that imports take
        raise ConfigError(f"there is no file {options.config}; give the path of a YAML file")
    print(f"starting {options.config}", flush=True)
    try:
        from lifelong.serve import logs
        from lifelong.serve.supervisor import Supervisor
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "a package", "serve") from None
    supervisor = Supervisor(
        options.config,
        logging.getLogger("lifelong.serve").warning,
        lambda text: print(text, flush=True),
    )
    logs.configure("supervisor", supervisor.config.serve.logs)
    supervisor.run()
    return 0


def _audit(options: argparse.Namespace) -> int:
    try:
        from lifelong.serve import audit, history, receipts
        from lifelong.serve.log import SQLiteLog
        from lifelong.serve.registry import Registry
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "a package", "serve") from None
    found: list[str] = []
    trimmed = 0
    try:
        with SQLiteLog(options.folder / "log") as log:
            found += log.verify()
            trimmed = log.trimmed
    except LifelongError as error:
        found.append(str(error))
    found += history.damaged(options.folder / "trainer")
    found += audit.verify(options.folder / "audit.jsonl")
    if trimmed > audit.trimmed(options.folder / "audit.jsonl"):
        found.append(f"the log begins after {trimmed}, and no decision says that it was trimmed")
    if not found:  # else they have nothing to be compared with
        found += receipts.verify(options.folder / "erasures", options.folder / "audit.jsonl")
    registry = Registry(options.folder)
    versions = [version for version in registry.versions() if version.servable]
    for version in versions:
        try:
            registry.verify(version.number)
        except LifelongError as error:
            found.append(str(error))
    if options.reproduce:
        found += past.reproduce(options.reproduce, options.folder, options.config)
    for problem in found:
        print(problem)
    if (gone := audit.cut(options.folder / "audit.jsonl")) is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(gone["time"]))
        print(f"the decisions begin after entry {gone['upto']}: those up to {when} UTC were cut")
    print(f"{len(found)} problems in the log, the decisions and {len(versions)} versions")
    return 1 if found else 0
