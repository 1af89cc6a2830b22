import importlib.util
from pathlib import Path

import pytest
from peer_table import DIFFER, METHODS, TITLE, figures, markdown, put_into, section, worse
from peers import JOB, MORE

WORKER = Path(__file__).parents[2] / "benchmarks" / "peers" / "run_ours.py"


def run(worker, strategy, seed, seconds, accuracy, **more):
    return {
        "worker": worker,
        "strategy": strategy,
        "seed": seed,
        "seconds": seconds,
        "rows_per_second": 60000 / seconds,
        "accuracy": accuracy,
        "bytes": 0,
        "commit": "a" * 40,
        **more,
    }


RUNS = [
    *(run("ours", "fine-tune", seed, 2.0, 0.2) for seed in range(3)),
    *(run("avalanche", "fine-tune", seed, 8.0, 0.2) for seed in range(3)),
    *(run("ours", "MIR", seed, 6.0, 0.70 + seed / 100, bytes=413056) for seed in range(3)),
    *(run("avalanche", "MIR", seed, 12.0 + 12 * seed, 0.80 + seed / 100) for seed in range(3)),
    run("ours", "GEM", 0, 1.0, 0.5),
]


def test_figures_are_of_both_libraries_seed_by_seed():
    found = {row["strategy"]: row for row in figures(RUNS)}
    assert list(found) == ["fine-tune", "MIR"]
    mir = found["MIR"]
    assert mir["ratio"] == pytest.approx(4.0)
    assert mir["bytes"] == 413056
    assert mir["ours"]["cost"] == pytest.approx(3.0)
    assert mir["avalanche"]["cost"] == pytest.approx(3.0)
    assert mir["ours"]["accuracy"] == pytest.approx(71.0)
    assert mir["ours"]["half"] == pytest.approx(4.302653 / 3**0.5)  # Student's t of two
    assert (mir["faster"], mir["as_accurate"]) == (True, False)
    assert found["fine-tune"]["as_accurate"]


def test_below_is_what_both_intervals_do_not_leave_open():
    theirs = {"accuracy": 75.0, "half": 4.0}
    assert not worse({"accuracy": 70.1, "half": 3.0}, theirs)
    assert worse({"accuracy": 69.9, "half": 3.0}, theirs)
    assert not worse({"accuracy": 70.0, "half": None}, {"accuracy": 75.0, "half": None})


def test_the_table_says_where_ours_is_below():
    told = markdown(figures(RUNS)).splitlines()[-1]
    cells = [cell.strip() for cell in told.strip("|").split("|")]
    assert cells[:5] == ["MIR", "3", "10000", "2500", "4.0"]
    assert cells[5:] == ["71.0 ± 2.5 (below)", "81.0 ± 2.5", "x3.00", "x3.00", "413,056"]


def test_the_section_takes_the_place_of_the_one_before(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n## One\n\nfirst\n\n## Two\n\nsecond\n", "utf-8")
    versions = {"avalanche": {"avalanche-lib": "0.6.0", "torch": "2.13.0"}}
    versions["ours"] = {"torch": "2.13.0"}
    result = {
        "job": JOB | MORE,
        "versions": versions,
        "clock_to_processor_time": 1.0,
        "figures": figures(RUNS),
        "runs": RUNS,
    }
    for _ in range(2):
        put_into(page, section(result))
    text = page.read_text("utf-8")
    assert text.count(f"## {TITLE}") == 1
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## One",
        "## Two",
        f"## {TITLE}",
    ]
    assert "at commit aaaaaaaa: `python benchmarks/peers.py --all" in text
    assert f"- MIR: {DIFFER['MIR']}." in text
    assert "- GEM:" not in text
    assert "Not measured yet: EWC," in text


def test_the_worker_makes_a_strategy_of_each_method_but_the_bounds():
    spec = importlib.util.spec_from_file_location("run_ours", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    made = {name: worker.strategies(JOB | MORE | {"strategy": name}) for name in METHODS}
    assert [name for name in METHODS if not made[name]] == ["fine-tune", "joint", "cumulative"]
    assert all(len(parts) == 1 for name, parts in made.items() if parts)
    assert set(DIFFER) <= set(METHODS)
