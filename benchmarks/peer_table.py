"""Every method that Avalanche has too, as a table: what `benchmarks/peers.py --all` measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lifelong.bench.results import write_atomic
from lifelong.metrics import Interval, interval

TITLE = "Beside Avalanche"
METHODS = [
    "fine-tune", "EWC", "online EWC", "SI", "MAS", "LwF", "GEM", "A-GEM", "replay", "DER", "DER++",
    "ER-ACE", "MIR", "iCaRL", "GDumb", "DGR", "joint", "cumulative",
]  # fmt: skip
"""By the names that both workers know; a method of both is one name here and one in each."""
BUSY = 1.1
"""Clock over processor time from which on a machine has other work."""
CHOSEN = (
    "Three settings were chosen with this library on a tenth of the training rows, kept apart, by "
    "the mean of two seeds (`--workers ours --on valid --set`):\n"
    "MAS's strength of 0.1 (0.001, 0.01 and 0.1 came to 19.9, 19.9 and 29.7 %; 1 diverges), the "
    "250 rows that GEM looks at (50, 128, 250 and 500: 76.3, 76.9, 80.0 and 72.3 %) and the "
    "generator's rate of 0.01 (0.001, 0.003, 0.01 and 0.03: 39.9, 45.0, 55.3 and 34.8 %)."
)
"""How what is no default of either was settled."""

LEFT_OUT = {
    "BiC": "Avalanche's ends in a TypeError with this torch, whose schedulers take no `verbose`",
    "feature replay": "Avalanche's keeps features of rows, ours a normal distribution a class",
    "L2": "not in Avalanche",
    "GSS": "not in this library",
    "PackNet and streaming LDA": "not compared yet; a name in both workers gives them a row",
}
DIFFER = {
    "EWC": "Avalanche squares the gradient of a batch's mean, ours are the squares of each row's; "
    "so at one strength ours pulls about a batch's size as hard",
    "SI": "Avalanche lets no importance exceed 0.001",
    "MAS": "Avalanche takes the mean of the tasks' importance and the magnitude of a batch's mean "
    "gradient, ours the sum and each row's, with which a strength of 1 diverges at this rate",
    "LwF": "Avalanche distils among old classes alone, ours teaches new ones a probability of 0",
    "GEM": "Avalanche holds a fifth of the memory for each task from the start, ours shares all of "
    "it among the tasks so far; Avalanche looks at all it holds in each step, ours at a draw",
    "A-GEM": "their memories differ as those of GEM do; both draw as many rows for each step",
    "DER++": "Avalanche replays one draw, ours two, as the paper does",
    "ER-ACE": "Avalanche gives the memory a task's rows before the task begins, replays from the "
    "second task on and halves the loss; ours gives it rows as they come",
    "MIR": "Avalanche replays nothing in the second task, nor ever rows of the latest one",
    "iCaRL": "Avalanche's loss is a mean over classes, ours a sum, as in the paper",
    "GDumb": "ours has momentum and a learning rate that falls along a cosine",
    "DGR": "Avalanche's generator learns after the model and has 2 latent numbers, ours beside it "
    "and 100, with as many weights in all (Adam at 0.01, which is not our default); Avalanche "
    "counts new and made rows alike, ours as there are tasks behind them",
}


def figures(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the two libraries on each method that has runs of both.

    Speeds are medians over seeds, and ratios medians of those of each seed; a cost is how many
    times as long as fine-tuning, of the same library and seed, training takes.
    """
    by_name: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for run in runs:
        workers = by_name.setdefault(run["strategy"], {})
        workers.setdefault(run["worker"], {})[run["seed"]] = run
    known = [name for name in METHODS if {"ours", "avalanche"} <= by_name.get(name, {}).keys()]
    return [_compared(name, by_name[name], by_name.get("fine-tune", {})) for name in known]


def _compared(
    name: str,
    workers: Mapping[str, Mapping[int, Mapping[str, Any]]],
    fine_tuned: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> dict[str, Any]:
    ours, theirs = workers["ours"], workers["avalanche"]
    both = sorted(ours.keys() & theirs.keys())
    found: dict[str, Any] = {
        "strategy": name,
        "seeds": both,
        "ratio": median(ours[s]["rows_per_second"] / theirs[s]["rows_per_second"] for s in both),
        "bytes": max(ours[s]["bytes"] for s in both),
    }
    for worker, own in (("ours", ours), ("avalanche", theirs)):
        base = fine_tuned.get(worker, {})
        costs = [own[s]["seconds"] / base[s]["seconds"] for s in both if s in base]
        accuracy = interval([100 * own[s]["accuracy"] for s in both])
        found[worker] = {
            "rows_per_second": median(own[s]["rows_per_second"] for s in both),
            "cost": median(costs) if costs else None,
            "accuracy": accuracy.mean,
            "half": accuracy.half,
        }
    found["faster"] = found["ratio"] >= 1
    found["as_accurate"] = not worse(found["ours"], found["avalanche"])
    return found


def worse(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Tell whether a mean is below another by more than their two intervals leave open.

    Single seeds have no interval, and leave it open.

    Example:
        >>> worse({"accuracy": 70.0, "half": 2.0}, {"accuracy": 72.0, "half": 2.0})
        False
    """
    if ours["half"] is None or theirs["half"] is None:
        return False
    noise = (ours["half"] ** 2 + theirs["half"] ** 2) ** 0.5
    return bool(ours["accuracy"] < theirs["accuracy"] - noise)


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """Write the table."""
    lines = [
        "| method | seeds | rows/s | Avalanche | ratio | accuracy, % | Avalanche | cost "
        "| Avalanche | bytes stored |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        ours, theirs = row["ours"], row["avalanche"]
        cells = [
            row["strategy"],
            str(len(row["seeds"])),
            f"{ours['rows_per_second']:.0f}",
            f"{theirs['rows_per_second']:.0f}",
            f"{row['ratio']:.1f}" + ("" if row["faster"] else " (slower)"),
            _told(ours) + ("" if row["as_accurate"] else " (below)"),
            _told(theirs),
            _times(ours["cost"]),
            _times(theirs["cost"]),
            f"{row['bytes']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(accuracy: Mapping[str, Any]) -> str:
    whole = Interval(accuracy["accuracy"], None, accuracy["half"], 0)
    return f"{whole.mean:.1f}" + ("" if whole.half is None else f" ± {whole.half:.1f}")


def _times(cost: float | None) -> str:
    return "-" if cost is None else f"x{cost:.2f}"


def section(result: Mapping[str, Any]) -> str:
    """Write the section of `docs/results.md` from what the command has written."""
    found = result["figures"]
    names = [row["strategy"] for row in found]
    missing = [name for name in METHODS if name not in names]
    parts = [
        f"## {TITLE}",
        _protocol(result),
        _measured(result),
        *([f"Not measured yet: {', '.join(missing)}."] if missing else []),
        markdown(found),
        CHOSEN,
        "Where the two differ:",
        "\n".join(f"- {name}: {DIFFER[name]}." for name in names if name in DIFFER),
        "Left out:",
        "\n".join(f"- {name}: {why}." for name, why in LEFT_OUT.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _protocol(result: Mapping[str, Any]) -> str:
    job = result["job"]
    return (
        f"Fashion-MNIST in {job['tasks']} tasks of 2 classes, class-incremental; MLP "
        f"784-400-400-10; batches of {job['batch']}, SGD of {job['lr']}, one pass, one thread.\n"
        f"A memory has {job['memory']} rows, of which what replays takes {job['replayed']} with "
        "each batch (iCaRL 5); both libraries have the same strengths, in the convention of each.\n"
        "Speeds are of training alone, in processor time, medians over seeds; accuracies are means "
        "on all test rows at the end, with 95 % intervals.\n"
        "A cost is how many times as long as fine-tuning, of the same library, training takes. "
        "Bytes are those of the strategy's state in this library."
    )


def _measured(result: Mapping[str, Any]) -> str:
    ours, theirs = (result["versions"][worker] for worker in ("ours", "avalanche"))
    own = [run for run in result["runs"] if run["worker"] == "ours"]
    commits = _short(sorted({str(run["commit"]) for run in own}))
    clock = result["clock_to_processor_time"]
    busy = (
        f"Provisional: runs took {clock:.1f} times their processor time, so the machine had other "
        "work, which slows both libraries, not always alike.\n"
    )
    return (
        f"{busy if clock > BUSY else ''}"
        f"Avalanche {theirs['avalanche-lib']} on torch {theirs['torch']}, this library on torch "
        f"{ours['torch']}, at {commits}: "
        "`python benchmarks/peers.py --all --into docs/results.md`"
    )


def _short(commits: Sequence[str]) -> str:
    names = [re.sub(r"[0-9a-f]{40}", lambda whole: whole.group()[:8], one) for one in commits]
    return f"commit{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def put_into(page: Path, text: str) -> None:
    """Put the section into a Markdown page, in the place of an earlier one if it has one."""
    parts = re.split(r"(?m)^(?=## )", page.read_text("utf-8"))
    place = next((i for i, part in enumerate(parts) if part.startswith(f"## {TITLE}\n")), None)
    if place is None:
        parts.append(text)
    else:
        parts[place] = text
    write_atomic(page, ("\n\n".join(part.strip() for part in parts) + "\n").encode())
