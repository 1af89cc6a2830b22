from pathlib import Path

from lifelong.bench import listing
from lifelong.bench.hybrids import HYBRIDS
from lifelong.bench.recipes import RECIPES
from lifelong.bench.statistics import DASH

WORDS = {"nothing", "boundaries", "task ids", "all tasks at once", "keys"}


def test_every_strategy_stands_once_below_its_family_with_all_there_is_to_know():
    family, found = "", {}
    for line in listing.strategies():
        if line and not line.startswith(" "):
            family = line
        elif line.split() and line.split()[0] in RECIPES:
            found.setdefault(line.split()[0], []).append((family, line))
    assert found.keys() == RECIPES.keys()
    for name, recipe in RECIPES.items():
        [(family, line)] = found[name]
        assert family == recipe.family
        for told in (recipe.stores, recipe.needs, recipe.paper):
            assert f"  {told}" in line


def test_what_no_suite_can_run_is_listed_in_its_family_all_the_same():
    lines = listing.strategies()
    [line] = [line for line in lines if line.startswith("  prompts ")]
    assert line.split()[1:] == ["parts", "a", "task", "boundaries", "arXiv:2211.13218"]
    assert lines.index("structure") < lines.index(line) < lines.index("hybrids")
    assert any("lifelong.nets.Prompted" in line for line in lines)
    assert not listing.APART.keys() & RECIPES.keys()


def test_the_docs_have_the_same_names_and_say_the_same_of_boundaries():
    page = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text("utf-8")
    table = page.partition("## In one table")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    shown = {row[1].strip("`"): row[-2] for row in rows if len(row) > 3 and row[1].startswith("`")}
    needs = {name: recipe.needs for name, recipe in RECIPES.items()}
    needs |= {name: told for name, (_, _, told, _) in listing.APART.items()}
    assert shown.keys() == needs.keys()
    told = {name: "yes" if "boundaries" in need else "no" for name, need in needs.items()}
    assert shown == {**told, "joint": DASH}


def test_a_family_has_one_heading():
    lines = listing.strategies()
    for family in {recipe.family for recipe in RECIPES.values()}:
        assert lines.count(family) == 1


def test_what_strategies_need_is_told_in_the_same_words():
    for name, recipe in RECIPES.items():
        assert set(recipe.needs.split(", ")) <= WORDS, name


def test_hybrids_follow_with_what_they_are_made_of_and_when_to_take_them():
    lines = listing.strategies()
    after = lines[lines.index("hybrids") + 1 :]
    for line, (name, hybrid) in zip(after, HYBRIDS.items(), strict=False):
        assert line.split()[0] == name
        assert f" {hybrid.parts} " in line
        assert line.endswith(hybrid.when)


def test_columns_stand_below_each_other():
    lines = listing.aligned([("a", "bb", "c"), ("dddd", "e", "f")])
    assert lines == ["a     bb  c", "dddd  e   f"]
