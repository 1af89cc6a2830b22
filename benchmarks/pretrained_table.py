"""The tables of `benchmarks/pretrained.py`, for a page of docs."""

from __future__ import annotations

from statistics import mean, median
from textwrap import fill
from typing import Any

TITLES = {
    "clinc150": "CLINC150 on MiniLM, class-incremental",
    "cifar10": "Split CIFAR-10 on EfficientNet-lite0, class-incremental",
}
SAID = {
    "clinc150": (
        "150 intents in ten tasks by domain; the task is not told. 15000 requests to learn from, "
        "3000 for validation, 4500 to test; each is learned from once, in order of the tasks, but "
        "by the first row, a linear layer trained on all features for 20 epochs. Heads that are "
        "computed take the features of MiniLM as it comes. The others learn with Adam, 32 new "
        "rows and 32 of a memory a step; a memory keeps 1500 requests as texts, which enter it "
        "at the end of their task. MiniLM's four lower layers stay as they are and are computed "
        "once for all rows ({seconds:.0f} s, not counted). LoRA is of rank 8 at queries and values "
        "of the two upper layers, bottlenecks are of rank 16 behind their attention and "
        "feedforward parts, prompts of length 8 go into both: 10 components a task, without a "
        "memory, with a penalty of 0.1 (no other was tried), and only the newest task's outputs "
        "learn. Rates were chosen on the rows for validation, with 20 training rows an intent: "
        "0.003 of 0.001 and 0.003 for adapters, "
        "0.01 of 0.003 and 0.01 for prompts, and with all rows 0.003 of 0.003, 0.01 and 0.03 for "
        "the head alone. The larger rate was best for adapters and for prompts, so that still "
        "larger ones may be better. Seconds are of the processor, for learning alone. Bytes are of "
        "what is kept beside the backbone. Ten sets of LoRA of rank 8 at queries and values of "
        "all six layers, one a task, take {sets[LoRA]:,} bytes in ten files; ten of these "
        "bottlenecks in all six {sets[bottlenecks]:,}, in two layers, as here, a third of it."
    ),
    "cifar10": (
        "10 classes in five tasks; the task is not told. {train} rows to learn from, {val} for "
        "validation (a tenth of the training rows, kept apart), {test} to test: 500 of each class "
        "and 100, drawn once, not all of the data set's. Images are scaled to {size} x {size}: "
        "{sizes}. Each row is learned from once, but by the first row of the table, a linear "
        "layer trained on all features for 20 epochs. Two heads have settings that the rows for"
        " validation chose, as 450 rows of a class are few for 1280 features: LDA a shrinkage "
        "of 0.1, of 0.0001 to 0.3, and the ridge 1, of 0.01 to 1000, with a width of 4000, of "
        "2000 and 4000. Features are computed once ({seconds:.0f} s, not counted). The "
        "network's layers are convolutions, which adapters leave as they are: "
        "they stand behind its features, of rank 16. What is trained learns with Adam, {rates}; "
        "32 new rows and 32 of a memory a step, which keeps the features of 500 rows as fp16. "
        "Seconds are of the processor, for learning alone. Bytes are of what is kept beside the "
        "backbone."
    ),
}


def section(
    data: str, runs: list[dict[str, Any]], names: list[str], command: str, **said: Any
) -> tuple[str, str]:
    """Write a table; the mean over seeds, and from the least to the most.

    Args:
        data: its name.
        runs: as the benchmark keeps them.
        names: of methods, in order.
        command: that makes the table.
        said: what the words around it name.
    """
    lines = [
        f"## {TITLES[data]}",
        "",
        fill(SAID[data].format(**said), 150),
        "",
        f"`{command}`",
        "",
        "| method | seeds | valid, % | test, % | seconds "
        "| bytes of adapters | of the head | of rows |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in names:
        own = [one for one in runs if one["method"] == name]
        if not own:
            continue
        kept = own[0]["kept"]
        bytes_ = [f"{kept[key]:,}" if kept.get(key) else "" for key in ("adapters", "head", "rows")]
        if not kept:
            bytes_[2] = "all rows"
        lines.append(
            f"| {name} | {len(own)} | {mean(one['val'] for one in own):.2f} "
            f"| {spread([one['test'] for one in own if 'test' in one])} "
            f"| {median(one['seconds'] for one in own):.3g} | {' | '.join(bytes_)} |"
        )
    return TITLES[data], "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    """Write the mean, and the least and the most of several."""
    if not values:
        return ""
    ends = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{mean(values):.2f}{ends}"
