"""Runs brought together over their seeds: the numbers behind every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from lifelong.bench.results import Result, check_results
from lifelong.core.errors import MissingExtra
from lifelong.metrics import matrix as from_matrix
from lifelong.metrics.confidence import Interval, interval
from lifelong.metrics.cost import cost_ratio

if TYPE_CHECKING:
    from rich.table import Table

DASH = "\N{EN DASH}"  # where there is no number
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

FINE_TUNING = frozenset({"fine-tune", "finetune", "fine-tuning", "naive", "none"})
SPELLING = {
    "fine-tune": "Fine-tuning",
    "finetune": "Fine-tuning",
    "none": "Fine-tuning",
    "a-gem": "A-GEM",
    "agem": "A-GEM",
    "bic": "BiC",
    "dgr": "DGR",
    "der": "DER",
    "der++": "DER++",
    "eeil": "EEIL",
    "er": "ER",
    "er-ace": "ER-ACE",
    "ewc": "EWC",
    "online-ewc": "Online EWC",
    "ewc-online": "Online EWC",
    "gdumb": "GDumb",
    "gem": "GEM",
    "gpm": "GPM",
    "icarl": "iCaRL",
    "l2": "L2",
    "lwf": "LwF",
    "mas": "MAS",
    "mir": "MIR",
    "packnet": "PackNet",
    "si": "SI",
    "wa": "WA",
    "x-der": "X-DER",
}


class Summary(TypedDict):
    """One strategy over its seeds; a number that no run has is None.

    `bound` marks a model that learned all tasks at once; `ratio` is time over fine-tuning's.
    """

    strategy: str
    label: str
    seeds: list[int]
    bound: bool
    baseline: bool
    average_accuracy: Interval
    forgetting: Interval | None
    backward_transfer: Interval | None
    forward_transfer: Interval | None
    plasticity: Interval | None
    seconds: Interval | None
    ratio: Interval | None
    rows_per_second: Interval | None
    growth_mb: Interval | None
    memory_bytes: Interval | None


def label(strategy: str) -> str:
    """Return a strategy's name as people write it.

    >>> label("ewc"), label("replay"), label("MyMethod"), label("ewc+der++")
    ('EWC', 'Replay', 'MyMethod', 'EWC + DER++')
    """
    named = [part.replace("\0", "++") for part in strategy.replace("++", "\0").split("+")]
    return " + ".join(SPELLING.get(part, part[:1].upper() + part[1:]) for part in named)


def by_strategy(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the runs of each strategy, in the order in which strategies first appear.

    >>> list(by_strategy([{"strategy": "si"}, {"strategy": "ewc"}, {"strategy": "si"}]))
    ['si', 'ewc']
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["strategy"], []).append(result)
    return groups


def is_bound(result: Result) -> bool:
    """Whether the run learned several tasks at once: one row for more than one task.

    >>> is_bound({"accuracy": [[0.9, 0.9]]}), is_bound({"accuracy": [[0.9]]})
    (True, False)
    """
    return len(result["accuracy"]) == 1 < len(result["accuracy"][0])


def mean_matrix(runs: Sequence[Result]) -> list[list[float]]:
    """Return the accuracy matrix, averaged over runs.

    >>> mean_matrix([{"accuracy": [[1.0]]}, {"accuracy": [[0.5]]}])
    [[0.75]]
    """
    rows = len(runs[0]["accuracy"])
    if any(len(run["accuracy"]) != rows for run in runs):
        raise ValueError(f"the runs of {runs[0]['strategy']!r} differ in their number of tasks")
    return [
        [sum(cells) / len(runs) for cells in zip(*parallel, strict=True)]
        for parallel in zip(*(run["accuracy"] for run in runs), strict=True)
    ]


def summary(results: Sequence[Result]) -> list[Summary]:
    """Return a `Summary` for each strategy: mean and 95 % interval of every number over seeds.

    >>> run = {"suite": "s", "strategy": "ewc", "seed": 0, "accuracy": [[0.5, 0.5], [0.25, 1.0]]}
    >>> [ours] = summary([run])
    >>> ours["label"], ours["average_accuracy"].mean, ours["forgetting"].mean
    ('EWC', 0.625, 0.25)
    """
    check_results(results, strict=False)
    groups = by_strategy(results)
    baseline = next((name for name in groups if name.lower() in FINE_TUNING), None)
    seconds = {run["seed"]: run.get("seconds") for run in groups.get(baseline or "", ())}
    return [_summarise(name, runs, baseline, seconds) for name, runs in groups.items()]


def _summarise(
    name: str, runs: list[Result], baseline: str | None, baseline_seconds: Mapping[int, Any]
) -> Summary:
    def over_seeds(field: str) -> Interval | None:
        return _interval([run.get(field) for run in runs])

    def derived(field: str) -> Interval | None:
        formula = getattr(from_matrix, field)
        given = [run.get(field) for run in runs]
        matrices = [run["accuracy"] for run in runs]
        pairs = zip(given, matrices, strict=True)
        return _interval([formula(rows) if value is None else value for value, rows in pairs])

    accuracies = [
        from_matrix.average_accuracy(run["accuracy"]) if given is None else given
        for run in runs
        for given in [run.get("average_accuracy")]
    ]
    ratios = [
        cost_ratio(run["seconds"], other)
        for run in runs
        if run.get("seconds") and (other := baseline_seconds.get(run["seed"]))
    ]
    return Summary(
        strategy=name,
        label=label(name),
        seeds=[run["seed"] for run in runs],
        bound=is_bound(runs[0]),
        baseline=name == baseline,
        average_accuracy=interval([float(value) for value in accuracies]),
        forgetting=derived("forgetting"),
        backward_transfer=derived("backward_transfer"),
        forward_transfer=over_seeds("forward_transfer"),
        plasticity=derived("plasticity"),
        seconds=over_seeds("seconds"),
        ratio=_interval(ratios),
        rows_per_second=over_seeds("rows_per_second"),
        growth_mb=over_seeds("growth_mb"),
        memory_bytes=over_seeds("memory_bytes"),
    )


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = [float(value) for value in values if value is not None]
    return interval(known) if known else None


def format_interval(value: Interval | None, scale: float = 1.0, digits: int = 1) -> str:
    """Return "mean ± half", scaled; no ± for a single seed, a dash where there is no number.

    >>> format_interval(interval([0.90, 0.92, 0.94]), scale=100)
    '92.0 ± 5.0'
    >>> format_interval(interval([0.9]), scale=100), format_interval(None)
    ('90.0', '–')
    """
    if value is None:
        return DASH
    mean = round(value.mean * scale, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = f"{mean:,.{digits}f}".replace("-", MINUS)
    return text if value.half is None else f"{text} ± {value.half * scale:,.{digits}f}"


def format_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it, by powers of 1000.

    >>> format_bytes(0), format_bytes(156_800), format_bytes(2_000_000)
    ('0 B', '157 kB', '2 MB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while abs(count) >= 999.5 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.3g} {units[0]}"


def summary_table(results: Sequence[Result], *, title: str | None = None) -> Table:
    """Return the summary as a table for a terminal of 80 columns, best first (needs rich).

    >>> run = {"suite": "s", "strategy": "ewc", "seed": 0, "accuracy": [[0.5, 0.5], [0.25, 1.0]]}
    >>> summary_table([run]).row_count
    1
    """
    try:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtra("rich", "bench", error) from error
    heading = None if title is None else Text(title)
    table = Table(title=heading, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("strategy", overflow="fold")  # where there is no room; figures stay whole
    for name in ("accuracy, %", "forgetting", "seconds", f"{TIMES} time", "kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(summary(results), key=_descending_accuracy):
        kept = row["memory_bytes"]
        table.add_row(
            Text(row["label"], style="dim" if row["bound"] else ""),
            format_interval(row["average_accuracy"], 100),
            format_interval(row["forgetting"], 100),
            format_interval(row["seconds"]),
            format_interval(row["ratio"], digits=2),
            DASH if kept is None else format_bytes(kept.mean),
        )
    return table


def _descending_accuracy(row: Summary) -> float:
    return -row["average_accuracy"].mean
