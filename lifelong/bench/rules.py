"""The rules that `lifelong advise` goes by, read from `advice.toml`; docs/advice.md shows them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.metrics.confidence import Interval

if TYPE_CHECKING:
    from lifelong.bench.constraints import Constraints

When = Mapping[str, Any]
"""Constraints by name, with the value each must have; none for always."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A comparison that was measured: its accuracies can be held against each other.

    Attributes:
        suite: what was learned; those of one suite are one comparison, if it stands in two places.
        page: of docs/ on which it stands.
        section: of that page.
        when: it is the nearest comparison. The first in the table whose `when` fits is taken.
        accuracy: of each method, as it stands there: percent, with its interval or its range.
        cost: of each method, how many times as long as fine-tuning its training takes.
        column: of the page's table, where it has several of accuracies.
        rows: of the page's table that count, by a text in their second cell.
    """

    suite: str
    page: str
    section: str
    when: When
    accuracy: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    column: str = ""
    rows: str = ""

    @property
    def place(self) -> str:
        """Say where it stands."""
        return f"docs/{self.page}, {self.section}"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Methods that do not come into question under some constraints.

    Attributes:
        methods: their names.
        when: they do not.
        because: why.
        tasks: they do with so many tasks, and not with more.
    """

    methods: tuple[str, ...]
    when: When
    because: str
    tasks: int = 0

    @property
    def constraint(self) -> str:
        """Name what rules them out; "none" for what always does."""
        return ", ".join([*self.when, *(["tasks"] if self.tasks else [])]) or "none"

    def holds(self, c: Constraints) -> bool:
        """Say whether they are ruled out."""
        return fits(self.when, c) and (c.tasks or 0) >= self.tasks + bool(self.tasks)


@dataclass(frozen=True, slots=True)
class Note:
    """What speaks for methods, or against them, beside their figures.

    Attributes:
        methods: their names.
        when: it does.
        text: what it is, with the figures.
        page, section: where the figures stand.
        good: whether it speaks for them.
    """

    methods: tuple[str, ...]
    when: When
    text: str
    page: str
    section: str
    good: bool = False

    @property
    def told(self) -> str:
        """Say it, with the place."""
        return f"{self.text} (docs/{self.page}, {self.section})"


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules.

    Attributes:
        edge_cost: how many times the cost of fine-tuning may be paid on the edge, if nothing is
            said.
        stand_in: whose figures count for the default learner where it has none of its own, which
            is said with each.
        figures: comparisons, the nearest first.
        exclusions: what is left out, and when.
        notes: what speaks for methods and against them.
    """

    edge_cost: float
    stand_in: str
    figures: tuple[Figures, ...]
    exclusions: tuple[Exclusion, ...]
    notes: tuple[Note, ...]

    def nearest(self, constraints: Constraints) -> list[Figures]:
        """Find the comparison that is nearest to what is to be done; it may stand in two places."""
        fitting = [one for one in self.figures if one.accuracy and fits(one.when, constraints)]
        return [one for one in fitting if one.suite == fitting[0].suite]

    def comparisons(self, c: Constraints) -> list[Figures]:
        """Find all comparisons of the same kind of increments, from scratch or pretrained."""
        same = {"increment": c.increment, "pretrained": c.pretrained}
        return [
            one
            for one in self.figures
            if one.accuracy and {"pretrained": False, **one.when}.items() >= same.items()
        ]

    def cost(self, method: str) -> tuple[float, Figures] | None:
        """Find what a method costs, in the first comparison that says so."""
        return next(((one.cost[method], one) for one in self.figures if method in one.cost), None)


@cache
def read_rules() -> Rules:
    """Read the table.

    Example:
        >>> read_rules().stand_in
        'der++'
    """
    table = tomllib.loads((Path(__file__).parent / "advice.toml").read_text("utf-8"))
    for part in (*table["exclusions"], *table["notes"]):
        part["methods"] = tuple(part["methods"])
    return Rules(
        table["edge_cost"],
        table["stand_in"],
        tuple(Figures(**one) for one in table["figures"]),
        tuple(Exclusion(**one) for one in table["exclusions"]),
        tuple(Note(**one) for one in table["notes"]),
    )


def fits(when: When, constraints: object) -> bool:
    """Say whether constraints have these values.

    Example:
        >>> from lifelong.bench.advice import Constraints
        >>> fits({"online": True}, Constraints(online=True)), fits({}, Constraints())
        (True, True)
    """
    return all(getattr(constraints, name) == value for name, value in when.items())


def read_interval(text: str) -> Interval:
    """Read a mean with its 95 % interval, or with the least and the most, as the docs write it.

    Example:
        >>> read_interval("93.8 ± 4.8").half, read_interval("93.24 (92.71 to 93.60)").mean
        (4.8, 93.24)
    """
    mean, *others = (float(number) for number in re.findall(r"[\d.]+", text))
    half = others[0] if len(others) == 1 else max((abs(mean - n) for n in others), default=None)
    return Interval(mean, None, half, 1 if half is None else 2)


def markdown(rules: Rules) -> str:
    """Write the rules as the tables of docs/advice.md."""
    lines = ["| left out | when | because |", "|---|---|---|"]
    lines += [
        f"| {_names(one.methods)} | {_when(one.when, one.tasks)} | {one.because} |"
        for one in rules.exclusions
    ]
    lines += ["", "| about | when | it is said | from |", "|---|---|---|---|"]
    for note in rules.notes:
        side = "for" if note.good else "against"
        link = _link(note.page, note.section)
        lines.append(
            f"| {_names(note.methods)} | {_when(note.when)} | {side}: {note.text} | {link} |"
        )
    lines += ["", "| where | compared on | stands in | methods |", "|---|---|---|--:|"]
    lines += [
        f"| {_when(one.when)} | {one.suite} | {_link(one.page, one.section)} | "
        f"{len(one.accuracy)} |"
        for one in rules.figures
    ]
    return "\n".join(lines)


def anchor(title: str) -> str:
    """Name a heading as links do.

    Example:
        >>> anchor("Split MNIST after Hsu et al.")
        'split-mnist-after-hsu-et-al'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _names(methods: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in methods)


def _when(when: When, tasks: int = 0) -> str:
    told = [f"`{name} = {str(value).lower()}`" for name, value in when.items()]
    told += [f"`tasks > {tasks}`"] if tasks else []
    return ", ".join(told) or "always"


def _link(page: str, section: str) -> str:
    return f"[{section}]({page}#{anchor(section)})"
