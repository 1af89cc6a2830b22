"""The command that says which strategy to take."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.commands.arguments import pair, seeds
from lifelong.core.errors import UnknownName

if TYPE_CHECKING:
    from lifelong.bench.advice import Advice, Candidate
    from lifelong.bench.trial import Trial


def add(commands: Any) -> None:
    """Add the command to a parser's."""
    ask = commands.add_parser("advise", help="which strategy to take, and why")
    ask.set_defaults(act=_advise, stopped="; the same command goes on where it was")
    yes_or_no = argparse.BooleanOptionalAction
    ask.add_argument("--tasks", type=int, metavar="N", help="how many there will be")
    ask.add_argument(
        "--storage", metavar="SIZE", help="for all that is kept of the past: 100MB, or 0"
    )
    ask.add_argument(
        "--privacy", metavar="WHAT",
        help="what may be kept of past rows: rows, statistics or nothing (or low, medium, high)",
    )  # fmt: skip
    ask.add_argument(
        "--compute", type=float, metavar="TIMES", help="the cost of fine-tuning may be paid"
    )
    ask.add_argument("--boundaries", action=yes_or_no, default=True, help="ends of tasks are told")
    ask.add_argument("--task-known", action=yes_or_no, help="the task is told at test time")
    ask.add_argument(
        "--place", default="server", metavar="WHERE", help="server or edge (default: server)"
    )
    ask.add_argument("--increment", metavar="KIND", help="what a task adds: task, domain or class")
    ask.add_argument("--online", action="store_true", help="each row is learned from once")
    ask.add_argument("--pretrained", action="store_true", help="there is a backbone to freeze")
    ask.add_argument("--row-bytes", type=int, metavar="N", help="of a row's inputs")
    ask.add_argument("--classes", type=int, metavar="N", help="how many there will be")
    ask.add_argument("--parameters", type=int, metavar="N", help="of the model")
    ask.add_argument("--all", action="store_true", help="say of each method what speaks for it")
    ask.add_argument("--json", action="store_true", help="for machines")
    tried = ask.add_argument_group("trying the best ones")
    tried.add_argument(
        "--measure",
        metavar="SUITE",
        help="try them on it (see `lifelong list`), or on a table or images of your own",
    )
    tried.add_argument("--minutes", type=float, help="at most (default: 10)")
    tried.add_argument("--candidates", type=int, metavar="N", help="to try (default: 4)")
    tried.add_argument("--seeds", type=seeds, help="(default: 0,1,2)")
    tried.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", type=pair, default=[], action="extend",
        help="settings of the suite, such as limit=100",
    )  # fmt: skip
    tried.add_argument("--out", type=Path, metavar="DIR", help="(default: runs/advice-SUITE)")
    tried.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")


DEFAULTS: Mapping[str, Any] = {
    "minutes": 10.0, "candidates": 4, "seeds": [0, 1, 2], "set": [], "out": None, "workers": None,
}  # fmt: skip
"""How methods are tried, where it is not said otherwise."""
SHOWN = 5
"""How many candidates are shown with all that speaks for them and against them."""
LEVELS = {"low": "rows", "medium": "statistics", "high": "nothing"}
"""How much privacy is asked for, as what may be kept."""


def _advise(options: argparse.Namespace) -> int:
    from lifelong.bench import Constraints, advise
    from lifelong.bench.trial import known_of

    given = {field.name: getattr(options, field.name) for field in fields(Constraints)}
    words = {**LEVELS, **{kept: kept for kept in LEVELS.values()}}
    if options.privacy is not None:
        if options.privacy not in words:
            raise UnknownName("privacy", options.privacy, words)
        given["privacy"] = words[options.privacy]
    constraints = Constraints(**given)
    if options.measure is None:
        _refuse_unused(options)
        _print(options, advise(constraints), None)
        return 0
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    constraints = known_of(constraints, options.measure, dict(options.set))
    advice = advise(constraints)
    trial, report = _measured(options, advice)
    _print(options, advice, trial)
    if not options.json:
        print(f"the report is {report.resolve()}")
    return 0


def _refuse_unused(options: argparse.Namespace) -> None:
    """Refuse what only says how methods are tried, where none is: it would change nothing."""
    given = [f"--{name}" for name in DEFAULTS if getattr(options, name) not in (None, [])]
    if given:
        says, it = ("say", "them") if len(given) > 1 else ("says", "it")
        raise ValueError(
            f"{' and '.join(given)} {says} how methods are tried, and none is; say on what with "
            f"--measure SUITE, or leave {it} out"
        )


def _measured(options: argparse.Namespace, advice: Advice) -> tuple[Trial, Path]:
    """Try the best ones, and write the report of what they came to."""
    from lifelong.bench.own import check_apart, short_name
    from lifelong.bench.progress import RunProgress
    from lifelong.bench.report import write_report, write_results
    from lifelong.bench.trial import measure, plan

    words = {
        "count": options.candidates,
        "seeds": options.seeds,
        "given": dict(options.set),
    }
    suite = options.measure
    out = options.out or Path("runs") / f"advice-{short_name(suite)}"
    check_apart(suite, out)
    with RunProgress(plan(advice, suite, **words)) as progress:
        trial = measure(
            advice, suite, out, minutes=options.minutes, workers=options.workers,
            tell=progress.tell, **words,
        )  # fmt: skip
    write_results(trial.results, out / "results.json")
    title = f"Advice on {suite}, by rows that were kept apart"
    return trial, write_report(trial.results, out, command=options.command, title=title)


def _print(options: argparse.Namespace, advice: Advice, trial: Trial | None) -> None:
    from lifelong.bench.listing import aligned
    from lifelong.bench.snippets import INCREMENTS, command, python

    first = advice.first if trial is None else trial.candidates[0]
    suite = INCREMENTS[advice.constraints.increment or "class"]
    if options.measure:
        suite = dict(options.set)
    line = command(first.method, first.settings, suite, options.measure or "digits")
    code = python(first.method, first.settings)
    if options.json:
        print(json.dumps(_plain(advice, trial, line, code), indent=1))
        return
    if trial is not None:
        from rich.console import Console

        from lifelong.bench.report import summary_table

        Console().print(summary_table(trial.results, title=f"{options.measure}, rows kept apart"))
        for name, why in trial.left_out.items():
            print(f"left out: {name}: {why}")
    because = advice.because if trial is None else trial.because
    print(f"take {first.method}: {because}\n\n  {line}\n")
    print("\n".join(f"  {text}".rstrip() for text in code.splitlines()))
    shown, rest = _parted(advice, trial, everything=options.all)
    for one in shown:
        print("\n".join(["", *_told(one)]))
    then = "then" if trial is None else "then, untried"
    others = [(f"  {one.method}", (one.reasons or one.doubts)[0]) for one in rest]
    outs = [(f"  {one.method}", one.constraint, one.because) for one in advice.ruled_out]
    for head, rows in ((f"{then} (--all for the reasons)", others), ("ruled out", outs)):
        if rows:
            print("\n".join(["", head, *aligned(rows)]))


def _parted(
    advice: Advice, trial: Trial | None, *, everything: bool
) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    """Give the candidates that are shown with their reasons, and the others, best first."""
    every, count = advice.candidates, SHOWN
    if trial is not None:
        tried = {run["strategy"] for run in trial.results} | trial.left_out.keys()
        every = (*trial.candidates, *(one for one in every if one.method not in tried))
        count = len(trial.candidates)
    count = len(every) if everything else count
    return every[:count], every[count:]


def _told(one: Candidate) -> list[str]:
    settings = " ".join(f"{key}={value}" for key, value in one.settings.items())
    lines = [f"{one.method}  {settings}".rstrip()]
    return [*lines, *(f"  + {text}" for text in one.reasons), *(f"  - {t}" for t in one.doubts)]


def _plain(advice: Advice, trial: Trial | None, line: str, code: str) -> Mapping[str, Any]:
    """Give all of it as plain data."""
    found = {**asdict(advice), "command": line, "python": code, "first": advice.first.method}
    found["basis"] = [one.place for one in advice.basis]
    if trial is not None:
        first = trial.candidates[0].method
        found |= {"first": first, "because": trial.because, "measured": asdict(trial)}
    return found
