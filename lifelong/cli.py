"""The command line: thin commands over what the library does."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lifelong import advise_command, past_commands
from lifelong.core.errors import ConfigError, LifelongError, MissingExtra, UnknownName

DEMO = ("fine-tune", "ewc", "replay", "der++", "default", "joint")
PARTS = ("all", "loop", "core", "serve")
LISTS = ("suites", "strategies", "datasets", "policies", "tables")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 1 for an error, 2 for wrong use, 130 for ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifelong", description="Models that go on learning and keep what they knew."
    )
    parser.set_defaults(stopped="")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_benchmarks(commands)
    lists = commands.add_parser("list", help="what there is to choose from")
    lists.set_defaults(act=_list)
    lists.add_argument("what", nargs="?", metavar="|".join(LISTS))
    advise_command.add(commands, _pair, _seeds)
    _add_service(commands)
    past_commands.add(commands)
    return parser


def _add_benchmarks(commands: Any) -> None:
    """Add what runs strategies on streams."""
    demo = commands.add_parser("demo", help="the whole loop and the strategies on digits")
    demo.set_defaults(
        act=_demo, suite="digits", strategy=list(DEMO), seeds=[0, 1, 2], set=[], demo=True,
        registry=None,
    )  # fmt: skip
    demo.add_argument(
        "--part", choices=PARTS, default="all",
        help="loop: a service that learns while requests, wrong labels and kill -9 come; core: "
        "strategies side by side in 5 tasks, with a report; serve: the service, left running; "
        "all: loop, then core (default: %(default)s)",
    )  # fmt: skip
    run = commands.add_parser("run", help="run strategies on a suite and write a report")
    run.set_defaults(act=_run, demo=False)
    run.add_argument(
        "suite", metavar="SUITE",
        help="see `lifelong list suites`; or a CSV or Parquet file, a zip file of images or a "
        "folder of them",
    )  # fmt: skip
    run.add_argument(
        "--strategy", nargs="+", metavar="NAME", default=list(DEMO),
        help="one or more, or several joined by + (default: %(default)s)",
    )  # fmt: skip
    run.add_argument("--seeds", type=_seeds, default=[0], help="such as 0,1,2 (default: 0)")
    run.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", default=[], action="extend",
        help="settings of the suite (lr=0.1) or of a strategy (ewc.strength=100)",
    )  # fmt: skip
    run.add_argument(
        "--registry", type=Path, metavar="DIR",
        help="log each run to DIR/registry.db too, for `mlflow ui`",
    )  # fmt: skip
    again = commands.add_parser("reproduce", help="run a published table, ours beside it")
    again.set_defaults(act=_reproduce)
    again.add_argument("table", nargs="?", metavar="TABLE", help="all tables if left out")
    again.add_argument("--seeds", type=_seeds, default=[0, 1, 2, 3, 4], help="(default: 0,1,2,3,4)")
    again.add_argument("--into", type=Path, metavar="FILE", help="a Markdown page to update")
    for command, folder in (
        (demo, "runs/demo"),
        (run, "runs/SUITE"),
        (again, "runs/TABLE for each table"),
    ):
        command.set_defaults(stopped="; the same command goes on from the last checkpoint")
        command.add_argument(
            "--out", type=Path, metavar="DIR", help=f"for what it writes (default: {folder})"
        )
        command.add_argument(
            "--workers", type=int, metavar="N", help="processes (default: as many as cores)"
        )


def _add_service(commands: Any) -> None:
    """Add what runs a service and verifies it."""
    serve = commands.add_parser("serve", help="serve a model and go on learning, until ctrl-C")
    serve.set_defaults(act=_serve)
    serve.add_argument("config", type=Path, metavar="CONFIG.yaml")

    audit = commands.add_parser("audit", help="verify a service's decisions, log and versions")
    audit.set_defaults(act=_audit)
    audit.add_argument("folder", type=Path, metavar="DIR")
    audit.add_argument("--config", type=Path, metavar="CONFIG.yaml", help=past_commands.BESIDE)
    audit.add_argument(
        "--reproduce", nargs="+", metavar="N", default=[],
        help="make versions again from the log and compare them bit for bit; or: champion",
    )  # fmt: skip


def _demo(options: argparse.Namespace) -> int:
    if options.part == "core":
        return _run(options)
    print("starting", flush=True)  # before the seconds that imports take
    try:
        from lifelong.demo.endless import serve_digits
        from lifelong.demo.loop import show_loop
    except ModuleNotFoundError as error:
        missing = MissingExtra(error.name or "a package", "serve")
        if options.part != "all":
            raise missing from None
        print(f"the loop of the service is left out: {missing}", file=sys.stderr)
        return _run(options)
    out = options.out or Path("runs") / "demo"
    # A service must not be left running, whichever signal ends this.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    later, options.stopped = options.stopped, "; nothing is left running"
    try:
        if options.part == "serve":
            serve_digits(out / "digits")
        failed = show_loop(out / "loop")
    finally:
        signal.signal(signal.SIGTERM, before)
    options.stopped = later
    if options.part == "all":
        print()
        _run(options)
    for claim in failed:
        print(f"lifelong: the demo failed: {claim}", file=sys.stderr)
    return 1 if failed else 0


def _run(options: argparse.Namespace) -> int:
    if options.registry is not None:
        _need("serve", "mlflow", "sqlalchemy")
    _need("bench", "rich", "jinja2", "matplotlib")
    from lifelong.bench.folder import check_beside
    from lifelong.bench.own import check_apart, short_name
    from lifelong.bench.progress import RunProgress
    from lifelong.bench.runner import RunFailed, run_all
    from lifelong.bench.suites import resolve, suite_of

    started = time.perf_counter()
    if len(set(options.strategy)) != len(options.strategy):
        raise ValueError(f"--strategy {' '.join(options.strategy)}; name each of them once")
    given = dict(_setting(text) for text in options.set)
    _check_owners(given, options.strategy)
    title = suite_of(options.suite).summary
    configs = [
        {**resolve(options.suite, strategy, given), "seed": seed}
        for strategy in options.strategy
        for seed in options.seeds
    ]
    out = options.out or Path("runs") / ("demo" if options.demo else short_name(options.suite))
    check_apart(options.suite, out)
    folders = [out / "jobs" / f"{c['strategy']}-{c['seed']}" for c in configs]
    check_beside(out / "jobs", configs)
    failed = None
    with _said_if_nothing_is_saved(options, folders), RunProgress(configs) as progress:
        try:
            results = run_all(configs, folders, workers=options.workers, tell=progress.tell)
        except RunFailed as error:
            failed, results = error, error.results
    if results:
        _report(options, results, out, title, time.perf_counter() - started)
    if failed is not None:
        raise failed
    return 0


def _report(
    options: argparse.Namespace,
    results: Sequence[dict[str, Any]],
    out: Path,
    title: str,
    seconds: float,
) -> None:
    """Write what runs came to, and print the table."""
    from rich.console import Console

    from lifelong.bench.report import summary_table, write_report, write_results

    write_results(results, out / "results.json")
    report = write_report(results, out, command=options.command, title=title)
    Console().print(summary_table(results, title=title))
    print(f"{seconds:.0f} s; the report is {report.resolve()}")
    if options.registry is not None:
        _log_runs(options.registry, results)


@contextmanager
def _said_if_nothing_is_saved(
    options: argparse.Namespace, folders: Sequence[Path]
) -> Iterator[None]:
    """Promise after ctrl-C that runs go on only if there is anything to go on from."""
    from lifelong.bench.folder import anything_saved

    try:
        yield
    except KeyboardInterrupt:
        if not anything_saved(folders):
            options.stopped = "; nothing was saved yet: the same command starts from the beginning"
        raise


def _need(extra: str, *modules: str) -> None:
    """Say before the work what would be missing after it."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtra(module, extra)


def _log_runs(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    from lifelong.serve.runs import log_results

    uri = f"sqlite:///{(folder / 'registry.db').absolute()}"
    ids = log_results(uri, results)
    print(f"logged {len(ids)} runs; see them with: mlflow ui --backend-store-uri {uri}")


def _reproduce(options: argparse.Namespace) -> int:
    from lifelong.bench import reproduce
    from lifelong.bench.progress import RunProgress
    from lifelong.bench.runner import run_all

    names = [options.table] if options.table else reproduce.table_names()
    for name in names:
        table = reproduce.read_table(name)
        out = (options.out or Path("runs")) / name
        configs = reproduce.configs(table, options.seeds)
        titles = [
            f"{cell.method}, {cell.scenario}, seed {seed}"
            for cell in table.cells
            for seed in options.seeds
        ]
        folders = reproduce.folders(table, options.seeds, out)
        with (
            _said_if_nothing_is_saved(options, folders),
            RunProgress(configs, titles) as progress,
        ):
            results = run_all(configs, folders, workers=options.workers, tell=progress.tell)
        reproduce.write(table, results, out, options.command)
        text = (out / "table.md").read_text("utf-8")
        if options.into:
            reproduce.put_into(options.into, table, text)
        print(text)
    return 0


def _list(options: argparse.Namespace) -> int:
    from lifelong.bench import listing
    from lifelong.bench.reproduce import read_table, table_names
    from lifelong.bench.suites import SUITES
    from lifelong.memory import POLICIES
    from lifelong.streams import DATASETS

    policies = [(name, (policy.__doc__ or "").splitlines()[0]) for name, policy in POLICIES.items()]
    lines = {
        "suites": listing.aligned([(name, suite.summary) for name, suite in SUITES.items()]),
        "strategies": listing.strategies(),
        "datasets": listing.aligned([(name, data.description) for name, data in DATASETS.items()]),
        "policies": listing.aligned(policies),
        "tables": listing.aligned([(name, read_table(name).title) for name in table_names()]),
    }
    if options.what is not None and options.what not in lines:
        raise UnknownName("list", options.what, lines)
    for name in [options.what] if options.what else lines:
        if options.what is None:
            print(f"\n{name}")
        for line in lines[name]:
            print(f"  {line}".rstrip())
    return 0


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
        found += past_commands.reproduce(options.reproduce, options.folder, options.config)
    for problem in found:
        print(problem)
    if (gone := audit.cut(options.folder / "audit.jsonl")) is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(gone["time"]))
        print(f"the decisions begin after entry {gone['upto']}: those up to {when} UTC were cut")
    print(f"{len(found)} problems in the log, the decisions and {len(versions)} versions")
    return 1 if found else 0


def _check_owners(given: dict[str, Any], strategies: Sequence[str]) -> None:
    """Refuse settings of strategies that are not run: they would change nothing."""
    from lifelong.bench.recipes import parts

    run = {part for name in strategies for part in parts(name)}
    for key in given:
        owner = key.rpartition(".")[0]
        if owner and owner not in run:
            raise UnknownName("strategy of this run", owner, run)


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text!r}; write KEY=VALUE, such as lr=0.1 or ewc.strength=100")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _pair(text: str) -> tuple[str, Any]:
    try:
        return _setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; write numbers such as 0,1,2") from None
    if min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}; seeds are 0 or more")
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


if __name__ == "__main__":
    raise SystemExit(main())
