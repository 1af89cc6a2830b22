import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lifelong.bench import published, statistics
from lifelong.bench.findings import headline, notes
from lifelong.bench.report import render, write_report
from lifelong.bench.results import ResultsError, read_results, write_results
from lifelong.bench.statistics import format_bytes, summary, summary_table
from lifelong.metrics import matrix as m

ENDS = {"fine-tune": 0.02, "ewc": 0.05, "replay": 0.85, "der++": 0.88}


WORDS = {"command": "lifelong run split-digits", "title": "A title"}


def result(strategy: str, seed: int = 0, tasks: int = 3, **more: Any) -> dict[str, Any]:
    if strategy == "joint":
        rows = [[0.96 + seed / 1000] * tasks]
    else:
        old = ENDS.get(strategy, 0.5) + seed / 500
        rows = [[0.99 if j == i else old * (j < i) for j in range(tasks)] for i in range(tasks)]
    seconds = 10.0 * (1 + len(strategy) / 10) + seed
    return {
        "suite": "split-digits",
        "strategy": strategy,
        "seed": seed,
        "accuracy": rows,
        "average_accuracy": m.average_accuracy(rows),
        "forgetting": m.forgetting(rows),
        "backward_transfer": m.backward_transfer(rows),
        "forward_transfer": m.forward_transfer(rows, [0.1] * tasks),
        "plasticity": m.plasticity(rows),
        "seconds": seconds,
        "rows_per_second": 1000 / seconds,
        "peak_rss_mb": 500.0,
        "growth_mb": 20.5,
        "memory_bytes": 0 if strategy == "fine-tune" else 1234 * len(strategy),
        "config": {"model": "MLP", "lr": 0.1, "nested": {"depth": 2}, "note": strategy},
        "versions": {"lifelong": "0.1.0", "torch": "2.13.0"},
        "tasks": [f"{2 * k}/{2 * k + 1}" for k in range(tasks)],
        **more,
    }


@pytest.fixture
def results() -> list[dict[str, Any]]:
    return [result(name, seed) for name in (*ENDS, "joint") for seed in (0, 1, 2)]


def page(results: list[dict[str, Any]], **more: str) -> str:
    html = render(results, **(WORDS | more))
    check_page(html)
    return html


class Loads(HTMLParser):
    """Everything in a page that a browser would fetch, and the scripts in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag in {"iframe", "object", "embed", "base", "form", "img"}:
            self.found.append(tag)
        self.found += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if (name in {"src", "href", "srcset", "action"} and value != "data:,")
            or name.startswith("on")
        ]


def check_page(html: str) -> None:
    """A page that loads nothing, with one script (ours) and charts that are valid XML."""
    loads = Loads()
    loads.feed(html)
    assert loads.found == []
    assert loads.scripts == 1
    bare = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|url\(|@import", bare)
    charts = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert charts
    for chart in charts:
        ElementTree.fromstring(chart)
        assert not re.search(r"\bnan\b|\binf\b|None", chart)


def test_a_page_holds_every_strategy_and_number(results: list[dict[str, Any]]) -> None:
    html = page(results)
    for row in summary(results):
        assert row["label"] in html
        assert f"<b>{row['average_accuracy'].mean * 100:.1f}</b>" in html
        assert f"± {row['average_accuracy'].half * 100:.1f}<" in html
        assert f"<b>{row['seconds'].mean:.1f}</b>" in html
        assert f"<b>{row['ratio'].mean:.2f}</b>" in html
    assert "2.13.0" in html
    assert "nested.depth" in html
    assert 'data-command="lifelong run split-digits"' in html


def test_hostile_text_is_only_text() -> None:
    evil = "<script>alert(1)</script>"
    run = result(evil, tasks=2, tasks_=[evil], config={evil: evil, "model": evil})
    run |= {"suite": evil, "tasks": [evil, "'\"><img src=x onerror=1>"], "versions": {evil: evil}}
    html = page([run], command=evil + ' "; rm', title="</title>" + evil)
    assert "alert(1)" in html


@pytest.mark.parametrize(
    "runs",
    [
        [result("ewc")],
        [result("joint")],
        [result("ewc", tasks=1)],
        [result("fine-tune"), result("joint")],
        [result("joint", 0), result("joint", 1)],
        [result(name, tasks=20) for name in ("fine-tune", "replay", "joint")],
        [result(f"strategy-{k}") for k in range(12)],
        [{"suite": "s", "strategy": "a", "seed": 3, "accuracy": [[1.0, 0.0], [1.0, 1.0]]}],
        [result("ewc", memory_bytes=None, seconds=None, growth_mb=None, config={}, versions={})],
    ],
    ids=["one", "joint", "task", "two", "joints", "20 tasks", "12 strategies", "bare", "unknown"],
)
def test_reports_of_little_or_much(runs: list[dict[str, Any]]) -> None:
    assert "<h1>" in page(runs)


def test_curves_are_drawn_where_seeds_were_sampled_alike() -> None:
    curve = [{"rows": 1500, "accuracy": [0.5, None, None]}, {"rows": 3000, "accuracy": [0.4] * 3}]
    assert "rows learned from" in page([result("ewc", seed, curve=curve) for seed in (0, 1)])
    other = [{**curve[0], "rows": 7}, curve[1]]
    html = page([result("ewc", 0, curve=curve), result("ewc", 1, curve=other)])
    assert "rows learned from" not in html


def test_write_report_leaves_a_page_and_plots(
    results: list[dict[str, Any]], tmp_path: Path
) -> None:
    said: list[str] = []
    results = results[:4] + results[-2:]
    path = write_report(results, tmp_path / "new", command="c", title="$t$", log=said.append)
    assert path == tmp_path / "new" / "report.html"
    names = {"report.html", "accuracy.png", "tasks.png", "matrix.png", "cost.png"}
    assert {file.name for file in path.parent.iterdir()} == names
    assert {Path(line).name for line in said} == names
    for plot in path.parent.glob("*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_plots_take_any_name(tmp_path: Path) -> None:
    names = {"tasks": ["$", "_x"]}
    runs = [result(name, tasks=2) | names for name in (r"$\frac{", "_y")]
    write_report(runs, tmp_path, **WORDS)
    assert (tmp_path / "cost.png").exists()


def test_the_headline_says_what_the_numbers_say(results: list[dict[str, Any]]) -> None:
    rows = summary(results)
    text = headline(rows).replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        "Fine-tuning ends at 34 % and has forgotten 97 points; DER++ keeps 92 %; "
        "the joint bound is 96 %."
    )
    closes, trust = notes(rows)
    assert closes.startswith("DER++ closes 93")
    assert "3 seeds" in trust
    assert "overlap" not in trust


def test_the_headline_admits_that_nothing_helped_and_that_seeds_overlap() -> None:
    runs = [result(name, seed) for name in ("fine-tune", "a", "b") for seed in (0, 1)]
    assert "DER" not in headline(summary(runs))
    assert "A and B overlap" in notes(summary(runs))[-1].replace("those of ", "")
    worse = [result("fine-tune"), result("x", accuracy=[[0.1] * 3] * 3, average_accuracy=0.1)]
    assert "nothing tried does better (X ends at 10" in headline(summary(worse))
    assert headline(summary([result("joint")])).startswith("Learning all tasks at once reaches 96")


def test_ratios_pair_seeds_with_the_baseline() -> None:
    runs = [
        result("fine-tune", 0, seconds=10.0),
        result("fine-tune", 1, seconds=20.0),
        result("ewc", 0, seconds=15.0),
        result("ewc", 1, seconds=30.0),
        result("ewc", 2, seconds=99.0),
    ]
    [_, ewc] = summary(runs)
    assert (ewc["ratio"].mean, ewc["ratio"].half, ewc["ratio"].count) == (1.5, 0.0, 2)
    assert summary([result("ewc")])[0]["ratio"] is None


def test_the_terminal_table_has_a_row_for_each_strategy(results: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(summary_table([*results, result("[red]x[/]")], title="[b]"))
    text = console.export_text()
    assert all(row["label"] in text for row in summary(results))
    assert "[red]x[/]" in text
    assert "[b]" in text
    assert "…" not in text


def test_figures_of_a_few_seeds_that_differ_stay_whole_on_80_columns() -> None:
    from rich.console import Console

    runs = [
        result("anchored-replay", seed, seconds=123.4 * (1 + seed), memory_bytes=123_456_789)
        | {
            "accuracy": [[0.5 + seed / 10] * 3],
            "average_accuracy": 0.5 + seed / 10,
            "forgetting": 0.1,
        }
        for seed in range(3)
    ]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(summary_table(runs))
    text = console.export_text()
    assert "246.8 ± 306.5" in text
    assert "123 MB" in text
    assert "…" not in text


def test_results_round_trip(results: list[dict[str, Any]], tmp_path: Path) -> None:
    path = write_results(results, tmp_path / "deep" / "results.json")
    assert read_results(path) == results


def test_numbers_that_do_not_exist_become_null(tmp_path: Path) -> None:
    import numpy as np

    run = result("ewc", seconds=float("nan"), peak_rss_mb=float("inf"), seed=np.int64(4))
    run["accuracy"] = [[np.float32(0.5)]]
    run |= {"tasks": ("a",), "config": {"path": Path("x"), "lr": np.float64(0.5)}}
    [back] = read_results(write_results([run], tmp_path / "r.json"))
    assert (back["seconds"], back["peak_rss_mb"], back["seed"]) == (None, None, 4)
    assert (back["accuracy"], back["config"]) == ([[0.5]], {"path": "x", "lr": 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": ...}, r"result 1 \(ewc, seed 1\): 'suite' is missing"),
        ({"versions": ...}, "'versions' is missing"),
        ({"seconds": "fast"}, "'seconds' is 'fast', not a number or null"),
        ({"seed": "0"}, "'seed' is '0', not int"),
        ({"accuracy": [[0.1, 0.2], [0.3]]}, r"result 1 .*ragged"),
        ({"accuracy": [[1.5]]}, r"accuracy\[0\]\[0\] is 1.5"),
        ({"accuracy": 3}, "result 1"),
        ({"config": []}, r"'config' is \[\], not an object"),
        ({"tasks": ["a"]}, "not a list of 3 names"),
        ({"seed": 0}, "the same strategy and seed as result 0"),
        ({"suite": "other"}, "suite is 'other', but result 0 has 'split-digits'"),
        ({"curve": [{"rows": 3}]}, r"curve\[0\] needs 'rows' and 'accuracy'"),
        ({"curve": [{"rows": 3, "accuracy": [2.0, None, 0.1]}]}, "accuracy 2.0"),
        ({"curve": [{"rows": 3, "accuracy": [0.1]}]}, "not a list of 3 accuracies"),
        ({"curve": [{"rows": 0.5, "accuracy": [0.1] * 3}]}, "rows 0.5"),
    ],
)
def test_a_wrong_result_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    wrong = result("ewc", 1) | change
    wrong = {key: value for key, value in wrong.items() if value is not ...}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([result("ewc"), wrong]))
    with pytest.raises(ResultsError, match=message) as error:
        read_results(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON, or cut short"),
        (b'[{"suite": "s", "stra', "not JSON, or cut short"),
        (b"\xff\xfe\x00\x81", "not text|not JSON"),
        (b"{}", "a list of objects, not dict"),
        (b"[]", "there are no results"),
        (b"[3]", "result 0 is int, not an object"),
        (b'[{"seconds": NaN}]', "NaN is not JSON"),
    ],
)
def test_a_damaged_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        read_results(path)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_results([result("ewc")], tmp_path / "results.json")
    before = path.read_bytes()
    with pytest.raises(ResultsError, match="has no place in a results file"):
        write_results([result("ewc", config={"x": object()})], path)
    with pytest.raises(ResultsError, match=r"accuracy\[0\]\[0\] is None"):
        write_results([result("ewc", accuracy=[[float("nan")]], tasks=1)], path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_results([result("si")], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_published_number_counts_within_two_standard_errors() -> None:
    rows = [
        published.compare("a|b", "class\nIL", [90.0, 90.0], 91.0, 0.5),
        published.compare("SI", "class", [89.9, 89.9], 91.0, 0.5),
        published.compare("ER", "class", [93.0], 80.43),
        published.compare("new", "class", [50.0], None),
    ]
    assert [row["reproduced"] for row in rows] == [True, False, True, None]
    assert rows[0]["difference"] == pytest.approx(-1.0)
    text = published.markdown_table(rows)
    assert "| a\\|b | class IL | 91.00 ± 0.50 | 90.00 ± 0.00 |" in text
    assert text.count("\n") == 6
    with pytest.raises(ValueError, match="published_sem is -1"):
        published.compare("a", "b", [1.0], 1.0, -1)


def test_a_standard_error_that_is_not_published_is_that_of_runs_like_ours() -> None:
    ours = [90.0, 92.0, 94.0, 96.0]  # standard deviation 2.58, of 10 runs an error of 0.816
    near, far = (published.compare("ER", "200", ours, mean, None, 10) for mean in (94.6, 94.7))
    assert near["published_sem"] == pytest.approx(0.8165, abs=1e-4)
    assert (near["estimated"], near["reproduced"], far["reproduced"]) == (True, True, False)
    assert "| 94.60 (± 0.82) | 93.00" in published.markdown_table([near])
    told = published.compare("ER", "200", ours, 94.6, 0.5, 10)
    assert (told["published_sem"], told["estimated"]) == (0.5, False)
    single = published.compare("ER", "200", [90.0], 94.6, None, 10)  # has no spread
    assert (single["published_sem"], single["reproduced"]) == (None, False)


def test_numbers_as_people_write_them() -> None:
    assert statistics.label("der++") == "DER++"
    assert format_bytes(999) == "999 B"
    assert format_bytes(1e15) == "1e+03 TB"
    low = statistics.interval([-1e-9])
    assert statistics.format_interval(low) == "0.0"
