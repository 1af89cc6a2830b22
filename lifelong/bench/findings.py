"""What the numbers say, in plain words: the first sentences of a report."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong.bench.charts import percent
from lifelong.bench.statistics import Summary, format_bytes

JOINT = "the joint bound"


def headline(rows: Sequence[Summary]) -> str:
    """Say what was found in one sentence: the baseline, the best strategy and the bound.

    >>> from lifelong.bench.statistics import summary
    >>> run = {"suite": "s", "seed": 0}
    >>> print(headline(summary([
    ...     run | {"strategy": "fine-tune", "accuracy": [[1.0, 0.0], [0.0, 0.4]]},
    ...     run | {"strategy": "si", "accuracy": [[1.0, 0.0], [0.8, 1.0]]},
    ...     run | {"strategy": "joint", "accuracy": [[1.0, 0.96]]}])).replace(chr(160), " "))
    Fine-tuning ends at 20 % and has forgotten 100 points; SI keeps 90 %; the joint bound is 98 %.
    """
    baseline, best, bound = _leading(rows)
    shown = [row for row in (baseline, best, bound) if row]
    digits = _digits([_accuracy(row) for row in shown])
    parts = []
    if baseline:
        parts.append(f"{_ends(baseline, digits)}")
    if best and not baseline:
        parts.append(_ends(best, digits))
        worst = min(_contenders(rows), key=_accuracy)
        if worst is not best:
            parts.append(_ends(worst, digits))
    elif best and baseline and _accuracy(best) > _accuracy(baseline):
        parts.append(f"{best['label']} keeps {percent(_accuracy(best), digits)}")
    elif best:
        ends = percent(_accuracy(best), digits)
        parts.append(f"nothing tried does better ({best['label']} ends at {ends})")
    if bound:
        verb = "is" if parts else "reaches"
        name = JOINT if parts else "Learning all tasks at once"
        parts.append(f"{name} {verb} {percent(_accuracy(bound), digits)}")
    return "; ".join(parts) + "."


def notes(rows: Sequence[Summary]) -> list[str]:
    """Say how much of the gap is closed, what it costs, and what the seeds cannot tell apart.

    >>> from lifelong.bench.statistics import summary
    >>> notes(summary([{"suite": "s", "strategy": "si", "seed": 0, "accuracy": [[0.5]]}]))
    ['One seed: how much chance is in these numbers is not known.']
    """
    found = []
    baseline, best, bound = _leading(rows)
    if baseline and best and bound:
        gap = _accuracy(bound) - _accuracy(baseline)
        gained = _accuracy(best) - _accuracy(baseline)
        if gap > 0.01 and gained > 0:
            closes = f"{best['label']} closes {percent(gained / gap)} of the gap to the bound"
            found.append(closes + _price(best) + ".")
    found.append(_trust(rows, best))
    return found


def _trust(rows: Sequence[Summary], best: Summary | None) -> str:
    counts = sorted({len(row["seeds"]) for row in rows})
    if counts == [1]:
        return "One seed: how much chance is in these numbers is not known."
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"Means over {seeds} seeds with 95\N{NO-BREAK SPACE}% intervals"
    rivals = [
        row["label"]
        for row in _contenders(rows)
        if best and row is not best and best["average_accuracy"].overlaps(row["average_accuracy"])
    ]
    if best and rivals:
        names = _and([best["label"], *rivals])
        text += f", not paired by seed; those of {names} overlap"
        text += ", so do not rank them on these runs alone"
    return text + "."


def _leading(rows: Sequence[Summary]) -> tuple[Summary | None, Summary | None, Summary | None]:
    """Return the baseline, the best strategy but for the baseline, and the best bound."""
    bounds = [row for row in rows if row["bound"]]
    return (
        next((row for row in rows if row["baseline"]), None),
        max(_contenders(rows), key=_accuracy, default=None),
        max(bounds, key=_accuracy, default=None),
    )


def _contenders(rows: Sequence[Summary]) -> list[Summary]:
    return [row for row in rows if not row["bound"] and not row["baseline"]]


def _accuracy(row: Summary) -> float:
    return row["average_accuracy"].mean


def _digits(values: Sequence[float]) -> int:
    """One decimal if whole percents would make different numbers look the same."""
    whole = {round(value * 100) for value in values}
    return 0 if len(whole) == len(values) else 1


def _ends(row: Summary, digits: int) -> str:
    text = f"{row['label']} ends at {percent(_accuracy(row), digits)}"
    if row["forgetting"] is None:
        return text
    points = round(row["forgetting"].mean * 100)
    if points < 0:
        return f"{text} and has gained {_points(-points)} on old tasks"
    return f"{text} and has forgotten {_points(points) if points else 'nothing'}"


def _points(count: int) -> str:
    return f"{count}\N{NO-BREAK SPACE}point{'' if count == 1 else 's'}"


def _price(row: Summary) -> str:
    """What a strategy costs: its time over fine-tuning's, and what it keeps."""
    parts = []
    if row["ratio"]:
        parts.append(f"taking {row['ratio'].mean:.1f} times as long as fine-tuning")
    kept = row["memory_bytes"]
    if kept:
        amount = format_bytes(kept.mean).replace(" ", "\N{NO-BREAK SPACE}")
        parts.append(f"keeping {amount}" if kept.mean else "keeping nothing")
    return ", " + " and ".join(parts) if parts else ""


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
