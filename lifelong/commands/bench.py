"""The commands that run strategies on streams, and those that say what there is."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifelong.commands.arguments import need, seeds, setting
from lifelong.core.errors import MissingExtra, UnknownName

DEMO = ("fine-tune", "ewc", "replay", "der++", "default", "joint")
PARTS = ("all", "loop", "core", "serve")
LISTS = ("suites", "strategies", "datasets", "policies", "tables")


def add(commands: Any) -> None:
    """Add what runs strategies on streams, and the lists, to a parser's."""
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
    run.add_argument("--seeds", type=seeds, default=[0], help="such as 0,1,2 (default: 0)")
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
    again.add_argument(
        "--seeds", type=seeds, help="(default: 0,1,2,3,4, and more where a table asks for more)"
    )
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
    _add_list(commands)


def _add_list(commands: Any) -> None:
    lists = commands.add_parser("list", help="what there is to choose from")
    lists.set_defaults(act=_list)
    lists.add_argument("what", nargs="?", metavar="|".join(LISTS))


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
        need("serve", "mlflow", "sqlalchemy")
    need("bench", "rich", "jinja2", "matplotlib")
    from lifelong.bench.folder import check_beside
    from lifelong.bench.own import check_apart, short_name, title_of
    from lifelong.bench.progress import RunProgress
    from lifelong.bench.runner import RunFailed, run_all
    from lifelong.bench.suites import resolve

    started = time.perf_counter()
    if len(set(options.strategy)) != len(options.strategy):
        raise ValueError(f"--strategy {' '.join(options.strategy)}; name each of them once")
    given = dict(setting(text) for text in options.set)
    _check_owners(given, options.strategy)
    configs = [
        {**resolve(options.suite, strategy, given), "seed": seed}
        for strategy in options.strategy
        for seed in options.seeds
    ]
    title = title_of(configs[0])
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


def _log_runs(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    from lifelong.serve.runs import log_results

    uri = f"sqlite:///{(folder / 'registry.db').absolute()}"
    ids = log_results(uri, results)
    print(f"logged {len(ids)} runs; see them with: mlflow ui --backend-store-uri {uri}")


def _reproduce(options: argparse.Namespace) -> int:
    import torch

    from lifelong.bench import reproduce
    from lifelong.bench.progress import RunProgress
    from lifelong.bench.runner import run_all

    names = [options.table] if options.table else reproduce.table_names()
    for name in names:
        table = reproduce.read_table(name)
        if table.gpu and not options.table and not torch.cuda.is_available():
            print(f"{name}: left out, as it would take days without a GPU; name it to run it here")
            continue
        out = (options.out or Path("runs")) / name
        planned = reproduce.runs(table, options.seeds)
        configs = [reproduce.config(cell, seed) for cell, seed in planned]
        folders = [reproduce.folder(cell, seed, out) for cell, seed in planned]
        titles = [f"{cell.method}, {cell.scenario}, seed {seed}" for cell, seed in planned]
        with (
            _said_if_nothing_is_saved(options, folders),
            RunProgress(configs, titles) as progress,
        ):
            results = run_all(configs, folders, workers=options.workers, tell=progress.tell)
        reproduce.write(table, planned, results, out, options.command)
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


def _check_owners(given: dict[str, Any], strategies: Sequence[str]) -> None:
    """Refuse settings of strategies that are not run: they would change nothing."""
    from lifelong.bench.recipes import parts

    run = {part for name in strategies for part in parts(name)}
    for key in given:
        owner = key.rpartition(".")[0]
        if owner and owner not in run:
            raise UnknownName("strategy of this run", owner, run)
