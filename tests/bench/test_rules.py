"""The rules are whole, the docs show them, and every figure stands where it is said to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lifelong.bench.constraints import Constraints
from lifelong.bench.recipes import RECIPES
from lifelong.bench.rules import Figures, Note, fits, markdown, read_interval, read_rules
from lifelong.bench.statistics import TIMES, label

DOCS = Path(__file__).parents[2] / "docs"
RULES = read_rules()
ALIASES: Mapping[str, tuple[str, ...]] = {
    "default": ("default, one setting for all",),
    "replay": ("ER", "rehearsal of 1100 rows"),
    "progressive": ("progressive networks",),
    "joint": ("linear, all rows at once",),
    "fine-tune": ("fine-tuning",),
    "experts": ("`experts` (10 copies)",),
    "ncm": ("`MeansHead`",),
    "slda": ("`LDAHead`",),
    "ranpac": ("`RidgeHead(width=1000)`",),
}
"""What methods are called in tables, beside their names."""


def section(page: str, title: str) -> str:
    parts = re.split(r"(?m)^(?=##+ )", (DOCS / page).read_text("utf-8"))
    found = [part for part in parts if re.match(rf"##+ {re.escape(title)}\n", part)]
    assert found, f"docs/{page} has no section {title!r}"
    return found[0]


def cells(figures: Figures, method: str) -> list[str]:
    """The cells of a method's rows in the section, in the column that counts if one is named."""
    names = {method.lower(), f"`{method}`", label(method).lower(), *ALIASES.get(method, ())}
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in section(figures.page, figures.section).splitlines()
        if line.startswith("|")
    ]
    own = [row for row in lines if row[0] in names or row[0].lower() in names]
    if figures.rows:
        own = [row for row in own if row[1] in figures.rows.split("|")]
    if figures.column:
        place = next(row.index(figures.column) for row in lines if figures.column in row)
        return [row[place] for row in own]
    return [cell for row in own for cell in row[1:]]


def stale(figures: Figures) -> list[str]:
    """The figures that do not stand in the docs."""
    every = replace(figures, column="")
    told = section(figures.page, figures.section)
    return [
        *(f"{n}: {text}" for n, text in figures.accuracy.items() if text not in cells(figures, n)),
        *(
            f"{n}: x{value}"
            for n, value in figures.cost.items()
            if not {f"x{value:.2f}", f"{value:.2f}"} & set(cells(every, n))
            and not re.search(rf"{re.escape(ALIASES.get(n, (n,))[0][:9])}.*{TIMES} {value}", told)
        ),
    ]


def missing(note: Note) -> list[str]:
    told = section(note.page, note.section)
    numbers = re.findall(r"\d[\d.,]*\d|\d", note.text)
    return [number for number in numbers if number not in told]


@pytest.mark.parametrize("figures", RULES.figures, ids=lambda one: f"{one.section}-{one.when}")
def test_every_figure_stands_where_it_is_said_to(figures: Figures):
    assert not stale(figures)


@pytest.mark.parametrize("note", RULES.notes, ids=lambda one: one.methods[0])
def test_every_figure_of_a_note_stands_where_it_is_said_to(note: Note):
    assert not missing(note)


def test_a_stale_figure_is_found():
    figures = next(one for one in RULES.figures if "gem" in one.accuracy and one.cost)
    assert stale(replace(figures, accuracy={"gem": "99.9 ± 0.1"})) == ["gem: 99.9 ± 0.1"]
    assert stale(replace(figures, accuracy={}, cost={"gem": 9.99})) == ["gem: x9.99"]
    note = replace(RULES.notes[0], text="it ended at 12.345 %")
    assert missing(note) == ["12.345"]
    with pytest.raises(AssertionError, match="no section"):
        stale(replace(figures, section="Nowhere"))


def test_the_docs_show_the_rules():
    page = (DOCS / "advice.md").read_text("utf-8")
    shown = markdown(RULES)
    assert shown in page, f"put this into docs/advice.md:\n\n{shown}"
    assert f"at most {RULES.edge_cost:g} times" in page
    assert f"`{RULES.stand_in}`" in page


def test_rules_name_methods_and_constraints_that_exist():
    named = {n for one in (*RULES.exclusions, *RULES.notes) for n in one.methods}
    named |= {n for one in RULES.figures for n in (*one.accuracy, *one.cost)} | {RULES.stand_in}
    assert named <= RECIPES.keys()
    known = {field.name for field in fields(Constraints)}
    for one in (*RULES.exclusions, *RULES.notes, *RULES.figures):
        assert one.when.keys() <= known


@pytest.mark.parametrize("increment", ["class", "domain", "task"])
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("pretrained", [True, False])
def test_there_is_a_comparison_for_everything(increment: str, online: bool, pretrained: bool):
    c = Constraints(increment=increment, online=online, pretrained=pretrained).settled()
    near = RULES.nearest(c)
    assert near
    assert all(one.when["increment"] == increment and fits(one.when, c) for one in near)
    if not pretrained:
        assert all(one in RULES.comparisons(c) for one in near)
        assert RULES.stand_in in near[0].accuracy


@pytest.mark.parametrize(
    ("text", "mean", "half"),
    [("73.2", 73.2, None), ("93.8 ± 4.8", 93.8, 4.8), ("93.24 (92.71 to 93.60)", 93.24, 0.53)],
)
def test_intervals_are_read_as_the_docs_write_them(text: str, mean: float, half: float | None):
    found = read_interval(text)
    assert found.mean == mean
    assert found.half == (half if half is None else pytest.approx(half))
