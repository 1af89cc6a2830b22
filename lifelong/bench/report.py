"""A report on a benchmark: one page that needs nothing else, and its plots as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifelong.bench import page
from lifelong.bench.charts import percent, ramp_color
from lifelong.bench.findings import headline, notes
from lifelong.bench.plots import write_plots
from lifelong.bench.published import compare, markdown_table
from lifelong.bench.results import (
    Result,
    ResultsError,
    check_results,
    read_results,
    write_atomic,
    write_results,
)
from lifelong.bench.statistics import Summary, summary, summary_table
from lifelong.core.errors import MissingExtra

__all__ = [
    "ResultsError",
    "check_results",
    "compare",
    "markdown_table",
    "read_results",
    "render",
    "summary",
    "summary_table",
    "write_report",
    "write_results",
]

TEMPLATES = Path(__file__).parent / "templates"
COLUMNS = (
    ("Average accuracy", "%", "Mean over all tasks at the end. Higher is better."),
    (
        "Forgetting",
        "points",
        "How far old tasks have fallen from the best they ever were (Chaudhry et al. 2018). "
        "Lower is better.",
    ),
    (
        "Backward transfer",
        "points",
        "What later tasks did to earlier ones since each was learned (Lopez-Paz & Ranzato 2017). "
        "Below zero they harmed them.",
    ),
    (
        "Forward transfer",
        "points",
        "What earlier tasks gave a task before it was learned, over the untrained model.",
    ),
    ("Plasticity", "%", "Mean accuracy on each task when it has just been learned."),
    ("Training", "s", "Seconds of training, without evaluation."),
    ("Time ratio", "", "Training time divided by that of fine-tuning with the same seed."),
    (
        "Peak memory",
        "MB",
        "How far the memory of the process rose over what it held before the run: libraries and "
        "the data set are not counted; tasks, model, optimizer and strategies are.",
    ),
    ("Kept", "", "Bytes kept between tasks beside the model: stored rows, importances, teachers."),
)


def write_report(
    results: Sequence[Result],
    out: Path | str,
    *,
    command: str,
    title: str,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Write report.html and the PNG plots into a folder, and return the page's path.

    Args:
        results: one object for each strategy and seed, of one suite.
        out: the folder; it is made if need be.
        command: what one types to get these results again.
        title: the page's title.
        log: told the path of every file written, for instance `print`.

    Raises:
        ResultsError: the results are not in the format.
        MissingExtra: jinja2 or matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> run = {"suite": "s", "strategy": "ewc", "seed": 0, "accuracy": [[0.9, 0.1], [0.5, 0.9]]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_report([run], folder, command="lifelong run s", title="A test")
        ...     path.name, sorted(file.name for file in path.parent.glob("*.png"))
        ('report.html', ['accuracy.png', 'matrix.png', 'tasks.png'])
    """
    say = log or (lambda _: None)
    html = render(results, command=command, title=title)
    path = write_atomic(Path(out) / "report.html", html.encode())
    say(str(path))
    for plot in write_plots(results, Path(out)):
        say(str(plot))
    return path


def render(results: Sequence[Result], *, command: str, title: str) -> str:
    """Return the page of a report: its style, script and charts are all inside.

    >>> run = {"suite": "s", "strategy": "<script>", "seed": 0, "accuracy": [[0.5]]}
    >>> "&lt;script&gt;" in render([run], command="lifelong run s", title="A test")
    True
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("jinja2", "bench", error) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        **_parts(results),
        command=command,
        title=title,
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )


def _parts(results: Sequence[Result]) -> dict[str, Any]:
    rows = summary(results)
    color = page.colors(rows)
    names = page.task_names(results)
    shared, own = page.settings(results)
    return {
        "suite": results[0]["suite"],
        "headline": headline(rows),
        "notes": notes(rows),
        "facts": _facts(results, rows, shared),
        "columns": [
            dict(zip(("name", "unit", "meaning"), column, strict=True)) for column in COLUMNS
        ],
        "rows": page.table(rows, color),
        "over_time": page.over_time(results, color),
        "banded": any(row["average_accuracy"].half is not None for row in rows),
        "per_task": page.per_task(results, color),
        "legend": [
            {
                "text": name if name == str(j + 1) else f"{j + 1}: {name}",
                "color": ramp_color(j, len(names)),
            }
            for j, name in enumerate(names)
        ],
        "heat_maps": page.heat_maps(results, color),
        "map_width": 300 if len(names) <= 5 else min(40 * len(names) + 120, 1000),
        "costs": page.costs(rows, color),
        "shared": shared,
        "own": own,
        "versions": results[0].get("versions") or {},
    }


def _facts(
    results: Sequence[Result], rows: Sequence[Summary], shared: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return what was run, in a few words each."""
    names = page.task_names(results)
    tasks = str(len(names))
    if results[0].get("tasks") and len(names) <= 6:
        # A task's own name may be a list, such as "0, 1".
        tasks += ": " + " · ".join(name.replace(" ", "\N{NO-BREAK SPACE}") for name in names)
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    facts = [("Suite", results[0]["suite"]), ("Tasks", tasks), ("Strategies", str(len(rows)))]
    facts.append(("Seeds", ", ".join(map(str, seeds)) if len(seeds) <= 6 else str(len(seeds))))
    facts += [(key.capitalize(), shared[key]) for key in ("model", "device") if key in shared]
    chance = results[0].get("chance")
    if chance is not None:
        facts.append(("Chance", percent(chance)))
    return facts
