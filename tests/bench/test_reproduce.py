import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong.bench import reproduce
from lifelong.bench.runner import run_all
from lifelong.core.errors import UnknownName

TABLES = reproduce.table_names()

TINY = """
title = "A tiny table"
source = "nobody, ever"
notes = "A note."

[[cell]]
method = "ER | old"
scenario = "20 rows"
suite = "digits"
strategy = "replay"
set = { epochs = 1, limit = 10, "replay.capacity" = 20 }
published = 0.5
sem = 0.1

[[cell]]
method = "fine-tune"
scenario = "20 rows"
suite = "digits"
strategy = "fine-tune"
set = { epochs = 1, limit = 10 }
published = 99.9

[[cell]]
method = "joint"
scenario = "20 rows"
suite = "digits"
strategy = "joint"
set = { epochs = 1, limit = 10 }
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reproduce.Table:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(reproduce, "FOLDER", tmp_path / "tables")
    return reproduce.read_table("tiny")


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_resolves_and_has_a_folder_of_its_own(name: str):
    table = reproduce.read_table(name)
    planned = reproduce.runs(table, [0, 7])
    configs = [reproduce.config(*one) for one in planned]
    folders = [reproduce.folder(*one, Path("out")) for one in planned]
    assert len(configs) == len(folders) == len(set(folders)) == 2 * len(table.cells)
    assert [config["seed"] for config in configs[:2]] == [0, 7]
    assert all(config["curve"] == 0 for config in configs)
    assert all(folder.parent == Path("out/jobs") for folder in folders)
    assert "arXiv" in table.source
    assert table.title
    assert table.notes


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_of_a_cell_reaches_its_run(name: str):
    table = reproduce.read_table(name)
    for cell in table.cells:
        config = reproduce.config(cell, 0)
        for key, value in cell.given.items():
            owner, dot, setting = key.rpartition(".")
            assert (config["settings"][owner] if dot else config)[setting] == value, cell


@pytest.mark.parametrize("name", TABLES)
def test_cells_are_read_as_they_are_in_the_file(name: str):
    data = tomllib.loads((reproduce.FOLDER / f"{name}.toml").read_text())
    known = {"method", "scenario", "suite", "strategy", "set", "published", "sem", "seeds"}
    for cell, there in zip(reproduce.read_table(name).cells, data["cell"], strict=True):
        assert there.keys() <= known
        assert (cell.method, cell.published, cell.sem) == (
            there["method"],
            there.get("published"),
            there.get("sem"),
        )
        assert cell.published is None or 0 < cell.published <= 100


def test_published_numbers():
    def published(table: str, method: str, scenario: str) -> tuple[float | None, float | None]:
        cells = reproduce.read_table(table).cells
        [cell] = [each for each in cells if (each.method, each.scenario) == (method, scenario)]
        return cell.published, cell.sem

    assert published("split-mnist-buffers", "ER", "200 rows") == (80.43, None)
    assert published("split-mnist-buffers", "DER++", "500 rows") == (91.00, None)
    assert published("split-mnist-scenarios", "fine-tune", "class") == (19.90, 0.02)
    assert published("split-mnist-scenarios", "EWC", "task") == (98.64, 0.22)
    assert published("split-mnist-scenarios", "EWC", "domain") == (63.95, 1.90)


def test_unknown_tables_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'split-mnist-buffers'"):
        reproduce.read_table("split-mnist-bufers")


def test_slugs_are_names_of_folders(tiny: reproduce.Table):
    assert [cell.slug for cell in tiny.cells] == [
        "er-old-20-rows",
        "fine-tune-20-rows",
        "joint-20-rows",
    ]


def test_a_table_runs_and_is_written(tiny: reproduce.Table, tmp_path: Path):
    planned = reproduce.runs(tiny, [0, 1])
    folders = [reproduce.folder(*one, tmp_path) for one in planned]
    results = run_all([reproduce.config(*one) for one in planned], folders, workers=1)
    rows = reproduce.write(tiny, planned, results, tmp_path, "lifelong reproduce tiny")
    assert [row["reproduced"] for row in rows] == [True, False, None]
    text = (tmp_path / "table.md").read_text()
    assert "1 of 2 cells reproduced, 2 seeds: `lifelong reproduce tiny`" in text
    unpublished = replace(tiny, cells=tiny.cells[2:])
    reproduce.write(
        unpublished, planned[4:], results[4:], tmp_path / "none", "lifelong reproduce none"
    )
    alone = (tmp_path / "none" / "table.md").read_text()
    assert "\n\n2 seeds: `lifelong reproduce none`" in alone
    assert "A note." in text
    assert "| ER \\| old | 20 rows | 0.50 ± 0.10 |" in text
    data = json.loads((tmp_path / "table.json").read_text())
    assert (data["table"], data["command"]) == ("tiny", "lifelong reproduce tiny")
    assert set(data["versions"]) == {"lifelong", "torch", "numpy", "python"}
    for number, cell in enumerate(data["cells"]):
        accuracies = [run["average_accuracy"] for run in results[2 * number : 2 * number + 2]]
        assert cell["accuracies"] == accuracies
        assert cell["ours"] == pytest.approx(50 * sum(accuracies))
        assert cell["seeds"] == len(cell["seconds"]) == 2


def test_a_cell_may_take_more_runs_than_others(tiny: reproduce.Table, tmp_path: Path):
    cells = (replace(tiny.cells[0], seeds=3), replace(tiny.cells[1], seeds=2))
    table = replace(tiny, cells=cells)
    planned = reproduce.runs(table)
    assert [(cell.method, seed) for cell, seed in planned] == [
        *(("ER | old", seed) for seed in range(3)),
        *(("fine-tune", seed) for seed in range(2)),
    ]
    assert len(reproduce.runs(table, [7])) == 2  # seeds that are asked for are taken as they are
    results = [{"average_accuracy": 0.1 * n, "seconds": 1.0} for n in range(5)]
    reproduce.write(table, planned, results, tmp_path, "lifelong reproduce tiny")
    text = (tmp_path / "table.md").read_text()
    assert "1 of 2 cells reproduced, 2 to 3 seeds: " in text
    assert "| 0.50 ± 0.10 | 10.00 ± 24.84 | 3 | +9.50 | yes |" in text
    assert "| 99.90 | 35.00 ± 63.53 | 2 | \N{MINUS SIGN}64.90 | no |" in text


def test_a_table_takes_the_place_of_its_earlier_section(tmp_path):
    page = tmp_path / "results.md"
    first, second = map(reproduce.read_table, reproduce.table_names()[:2])
    reproduce.put_into(page, first, f"## {first.title}\n\nold\n")
    reproduce.put_into(page, second, f"## {second.title}\n\nother\n")
    reproduce.put_into(page, first, f"## {first.title}\n\nnew\n")
    assert page.read_text() == (
        f"# Results\n\n## {first.title}\n\nnew\n\n## {second.title}\n\nother\n"
    )
