"""The commands that look back: a back-test, a learner of before, a version made again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.commands.arguments import setting
from lifelong.core.errors import LifelongError, MissingExtra, UnknownName

if TYPE_CHECKING:
    from lifelong.serve.choice import Choice
    from lifelong.serve.plan import Plan

BESIDE = "(default: the one beside the folder that names it)"


def add(commands: Any) -> None:
    """Add the commands to a parser's."""
    test = commands.add_parser("backtest", help="replay a service's stream under other strategies")
    test.set_defaults(act=_backtest)
    test.add_argument("--log", type=Path, metavar="DIR", required=True, help="a service's folder")
    test.add_argument("--config", type=Path, metavar="CONFIG.yaml", help=BESIDE)
    test.add_argument(
        "--strategies", default="as-configured,fine-tune", metavar="A,B,...",
        help="see `lifelong list strategies`; as-configured are the service's (default: "
        "%(default)s)",
    )  # fmt: skip
    test.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", default=[], action="extend",
        help="for all but as-configured: of a strategy (ewc.strength=10), train.batch=32, lr=0.01",
    )  # fmt: skip
    test.add_argument("--from", dest="first", type=int, default=1, metavar="OFFSET",
                      help="measure rows from here on")  # fmt: skip
    test.add_argument("--to", dest="last", type=int, metavar="OFFSET", help="(default: the end)")
    test.add_argument("--sync", type=int, default=1, metavar="STEPS",
                      help="between syncs of what would have been served (default: 1)")  # fmt: skip
    test.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    test.add_argument("--out", type=Path, metavar="DIR", help="(default: runs/backtest)")

    past = commands.add_parser("rebuild", help="make a service's learner as of an earlier event")
    past.set_defaults(act=_rebuild)
    past.add_argument("config", type=Path, metavar="CONFIG.yaml")
    when = past.add_mutually_exclusive_group(required=True)
    when.add_argument("--at", type=int, metavar="OFFSET")
    when.add_argument("--version", type=int, metavar="N")
    past.add_argument("--out", type=Path, required=True, metavar="FILE")


def reproduce(numbers: Sequence[str], folder: Path, path: Path | None) -> list[str]:
    """Make versions again from a service's log; return what does not fit.

    Args:
        numbers: of the versions, or names of aliases.
        folder: of the service.
        path: of its configuration; None for the one beside the folder.
    """
    from lifelong.serve.past import config_of
    from lifelong.serve.rebuild import rebuild_version
    from lifelong.serve.registry import Registry

    config, registry = config_of(folder, path), Registry(folder)
    problems = []
    for text in numbers:
        number = int(text) if text.isdecimal() else registry.alias(text)
        if number is None:
            raise UnknownName("version", text, ["champion", "challenger", "a number"])
        version = registry.get(number)
        try:
            rebuild_version(config, version, folder=folder)
        except LifelongError as error:
            problems.append(str(error))
            continue
        digest = version.hashes["weights.safetensors"]
        print(f"version {number}, made again from the events up to {version.last_offset}, is the")
        print(f"registered one to the last bit: SHA-256 {digest}")
    return problems


def _backtest(options: argparse.Namespace) -> int:
    try:
        from lifelong.serve.backtest import backtest
        from lifelong.serve.past import config_of, log_of
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "a package", "serve") from None
    from lifelong.bench.replays import ReplayProgress, named, summary_table, write_page

    folder = options.log.parent if options.log.name == "log" else options.log
    log_of(folder).close()  # complains of a folder that is no service's, before all else
    config = config_of(folder, options.config)
    names = named(options.strategies)
    out = options.out or Path("runs") / "backtest"
    tried = choices(names, options.set, config.train)
    with ReplayProgress(names) as progress:
        found = backtest(
            config,
            tried,
            out,
            folder=folder,
            first=options.first,
            last=options.last,
            sync=options.sync,
            workers=options.workers,
            tell=progress.tell,
        )
    page = write_page(found, out / "report.html", options.command)
    from rich.console import Console

    Console().print(summary_table(found))
    print(f"the report is {page.resolve()}; the numbers are in {out / 'backtest.json'}")
    return 0


def choices(names: Sequence[str], texts: Sequence[str], plan: Plan) -> list[Choice]:
    """Make what a back-test compares: each choice has those of the settings that concern it.

    Args:
        names: of strategies.
        texts: settings, KEY=VALUE each.
        plan: of the service's trainer.

    Raises:
        UnknownName: there is no such strategy or setting.
        ValueError: a setting makes no sense, or a strategy needs all rows at once.
    """
    from lifelong.bench import recipes
    from lifelong.serve.backtest import AS_CONFIGURED
    from lifelong.serve.choice import Choice

    given = dict(setting(text) for text in texts)
    others = [name for name in names if name != AS_CONFIGURED]
    _check_names(given, others)
    train, made = _of(given, "train"), []
    for name in names:
        if name == AS_CONFIGURED:
            made.append(Choice(name))
            continue
        if recipes.bound(name):
            raise ValueError(f"{name} needs all rows at once; a stream gives them one by one")
        own = {part: _of(given, part) for part in recipes.parts(name)}
        recipes.make(name, own)  # complains of what is wrong before anything runs
        shown = {k: v for k, v in given.items() if k.rpartition(".")[0] in {"", "train", *own}}
        other_plan = replace(plan, **train) if train else None
        strategies = partial(recipes.make, name, own)
        made.append(Choice(name, strategies, other_plan, given.get("lr"), shown))
    return made


def _check_names(given: dict[str, Any], strategies: Sequence[str]) -> None:
    """Refuse settings that would change nothing, and of the trainer those that it has not."""
    from lifelong.bench import recipes
    from lifelong.bench.hybrids import HYBRIDS
    from lifelong.serve.backtest import AS_CONFIGURED
    from lifelong.serve.plan import Plan

    kinds = {field.name: str(field.type) for field in fields(Plan)}
    for name in strategies:
        known = [*recipes.RECIPES, *HYBRIDS, AS_CONFIGURED]
        if "+" not in name and name not in known:
            raise UnknownName("strategy", name, known)
    run = {part for name in strategies for part in recipes.parts(name)}
    for key, value in given.items():
        owner, _, name = key.rpartition(".")
        if owner == "train" and name not in kinds:
            raise UnknownName("setting of train", name, kinds)
        numbers = (int, float) if key == "lr" or kinds.get(name) == "float" else (int,)
        if owner not in ("train", *run) and key != "lr":
            raise UnknownName("strategy or setting of this back-test", key, {"lr", "train", *run})
        if owner in ("", "train") and type(value) not in numbers:
            raise ValueError(f"{key} is {value!r}; give a number")


def _of(given: dict[str, Any], owner: str) -> dict[str, Any]:
    return {k.rpartition(".")[2]: v for k, v in given.items() if k.rpartition(".")[0] == owner}


def _rebuild(options: argparse.Namespace) -> int:
    try:
        from lifelong.serve import versions
        from lifelong.serve.config import Config
        from lifelong.serve.rebuild import rebuild, rebuild_version
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "a package", "serve") from None
    config = Config.read(options.config)
    if options.at is not None:
        learner, what = rebuild(config, options.at), f"the learner after event {options.at}"
    else:
        version = versions.from_folder(config.folder / "versions" / str(options.version))
        learner, what = rebuild_version(config, version), f"the learner of version {version.number}"
    learner.save(options.out)
    print(f"{what}, after {learner.steps} steps, is in {options.out}")
    return 0
