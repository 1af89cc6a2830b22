"""Methods side by side that no published table compares: accuracy, bytes and cost.

    python benchmarks/every_method.py digits-class --seeds 0,1,2 --into docs/results.md
    python benchmarks/every_method.py digits-domain --seeds 0 --into docs/results.md
    python benchmarks/every_method.py digits-task --seeds 0 --into docs/results.md
    python benchmarks/every_method.py fashion --seeds 0 --into docs/results.md
    python benchmarks/every_method.py costs --into docs/results.md

It is the evidence that `lifelong advise` has for methods that no larger comparison covers. Runs go
on where they were interrupted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lifelong.bench.build import learner_of, stream_of, warm_up
from lifelong.bench.recipes import RECIPES
from lifelong.bench.reproduce import Table, put_into
from lifelong.bench.runner import RunFailed, run_all
from lifelong.bench.snippets import INCREMENTS
from lifelong.bench.statistics import DASH, format_interval, summary
from lifelong.bench.suites import resolve

Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods on a suite, in one kind of increments.

    Attributes:
        title: of its section.
        suite: its name.
        kind: of increments.
        intro: what the section says first.
        methods: their names; all if empty.
        settings: of strategies, where they differ from the suite's and their own; those without
            a strategy's name are for all that have such a setting.
    """

    title: str
    suite: str
    kind: str
    intro: str
    methods: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


DIGITS = """\
scikit-learn's 8x8 digits in 5 tasks of 2 classes, ten passes in batches of 16, Adam, an MLP of
2 x 100 ReLU units, 200 rows for what keeps rows; {told}.

Nothing was tuned for this table: settings are the defaults of `lifelong run digits`{but}. Methods
that were published for other networks (pretrained, convolutional, wide) cannot show here what they
are for."""


def _digits(title: str, kind: str, told: str, but: str = "") -> Comparison:
    settings = {"capacity": 200, "hat.steps": 18, "packnet.tasks": 5}
    intro = DIGITS.format(told=told, but=but)
    return Comparison(f"Every method on digits, {title}", "digits", kind, intro, (), settings)


COMPARISONS = {
    "digits-class": _digits("classes added", "class", "all ten are to be told apart"),
    "digits-domain": _digits("domains added", "domain", "odd is to be told from even"),
    "digits-task": _digits(
        "the task told",
        "task",
        "the two digits of a task that is told are to be told apart",
        ", but that HAT is told the batches of an epoch, and PackNet the number of tasks",
    ),
    "fashion": Comparison(
        "Other methods on Fashion-MNIST",
        "split-fashion-mnist",
        "class",
        """\
The job of "Beside Avalanche": the suite `split-fashion-mnist`, class-incremental in 5 tasks of 2
classes, one pass in batches of 128, SGD of 0.05, an MLP of 2 x 400 ReLU units, 500 rows for what
keeps rows. Nothing was tuned: settings are the defaults. Fine-tuning, replay and DER++ are here
again, to be compared with.""",
        (
            *("fine-tune", "replay", "der++", "experts", "exemplars", "gpm", "growing-lwf"),
            *("ranpac-warm", "feature-replay", "x-der", "bic", "eeil"),
        ),
    ),
}
EXPLAINED = """
Accuracy is the mean over tasks at the end on test rows, with the 95 % interval over seeds where
there are several. Bytes are those that the strategy keeps, without what a network that grows adds
to itself.
"""
COST_TITLE = "What other methods cost on digits"
COST_INTRO = """\
How many times as long as fine-tuning a method takes to learn the stream of "Every method on
digits, classes added", in processor time, each with fine-tuning right before it; median of three
rounds, one thread. Of the methods that "Beside Avalanche" lacks, without those that train a
generator. Adapters are told the task, as in "Every method on digits, the task told".

`python benchmarks/every_method.py costs --into docs/results.md`"""
COSTED = (
    *("l2", "adaptive-ewc", "growing-lwf", "features", "pooled", "exemplars", "prioritized"),
    *("clean-replay", "x-der", "sleep", "eeil", "bic", "gpm", "ranpac-warm", "feature-replay"),
)
COSTED_TOLD = ("lora", "task-lora", "o-lora", "inflora", "bottlenecks")


def configs(one: Comparison, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Settle the runs: of all methods that can learn such a stream."""
    told = one.kind == "task"
    for name in one.methods or RECIPES:
        recipe = RECIPES[name]
        if ("task ids" in recipe.needs and not told) or (told and recipe.family == "analytic"):
            continue
        own = {f"{name}.{key}" for key in recipe.settings()}
        given = {key if "." in key else f"{name}.{key}": v for key, v in one.settings.items()}
        given = {key: value for key, value in given.items() if key in own}
        settled = resolve(one.suite, name, {"curve": 0, **INCREMENTS[one.kind], **given})
        for seed in seeds:
            yield {**settled, "seed": seed}


def table(runs: Runs) -> list[str]:
    """Write a row for each method."""
    lines = ["| method | accuracy, % | bytes |", "|---|--:|--:|"]
    for row in summary(runs):
        kept, accuracy = row["memory_bytes"], format_interval(row["average_accuracy"], 100)
        told = DASH if kept is None else f"{kept.mean:,.0f}"
        lines.append(f"| `{row['strategy']}` | {accuracy} | {told} |")
    return lines


def spent(config: Mapping[str, Any]) -> float:
    """Learn a whole stream, and return the seconds of the processor that it took."""
    stream = stream_of(config)
    learner = learner_of(config, stream)
    began = time.process_time()
    for task in stream:
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
    return time.process_time() - began


def costs() -> str:
    """Measure what methods cost, each with fine-tuning right before it, and write the section."""
    torch.set_num_threads(1)
    lines = ["| method | cost |", "|---|--:|"]
    for name, methods in (("digits-class", COSTED), ("digits-task", COSTED_TOLD)):
        one = replace(COMPARISONS[name], methods=("fine-tune", *methods))
        plain, *others = configs(one, [0])
        warm_up(plain)
        for config in others:
            rounds = [(spent(plain), spent(config)) for _ in range(3)]
            cost = median(own / fine_tuning for fine_tuning, own in rounds)
            lines.append(f"| `{config['strategy']}` | x{cost:.2f} |")
    return "\n".join([f"## {COST_TITLE}", "", COST_INTRO, "", *lines])


def main() -> None:
    """Run what is left to run, and write the section."""
    parser = argparse.ArgumentParser(description="Methods side by side")
    parser.add_argument("what", choices=[*COMPARISONS, "costs"])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/every-method"))
    parser.add_argument("--into", type=Path, help="a Markdown page, to put the table into")
    options = parser.parse_args()
    if options.what == "costs":
        text = costs()
        print(text)
        if options.into:
            put_into(options.into, Table("costs", COST_TITLE, "", "", ()), text)
        return
    one, seeds = COMPARISONS[options.what], [int(seed) for seed in options.seeds.split(",")]
    runs, failed = list(configs(one, seeds)), dict[str, int]()
    folders = [options.out / options.what / f"{run['strategy']}-{run['seed']}" for run in runs]

    def tell(number: int, event: Mapping[str, Any]) -> None:
        if "error" in event:
            told = f"`{runs[number]['strategy']}`: {event['error']}"
            told = told.partition(" (Fidelity")[0].partition("; ")[0]
            failed[told] = failed.get(told, 0) + 1

    try:
        results = run_all(runs, folders, workers=1, tell=tell)
    except RunFailed as error:
        results = error.results
    command = f"python benchmarks/every_method.py {options.what} --seeds {options.seeds}"
    count = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    lines = [f"## {one.title}", "", one.intro, EXPLAINED]
    lines += [f"{count.capitalize()}: `{command} --into docs/results.md`", "", *table(results)]
    if failed:
        lines += ["", "What ended in an error, with the number of seeds:", ""]
        lines += [f"- {told}, {number}" for told, number in failed.items()]
    text = "\n".join(lines)
    print(text)
    if options.into:
        put_into(options.into, Table("every-method", one.title, "", "", ()), text)


if __name__ == "__main__":
    main()
