import pytest

from lifelong.bench.replays import best_first, named, rows, summary_table, write_page
from lifelong.bench.statistics import DASH, MINUS

PART = {"from": 1, "rows": 5, "accuracy": 0.8, "served": 0.6}
EMPTY = {"from": 50, "rows": 0, "accuracy": None, "served": None}


def result(strategy, accuracy, **more):
    return {
        "strategy": strategy,
        "accuracy": accuracy,
        "difference": -0.125,
        "half": 0.05,
        "over_time": [PART, EMPTY, {**PART, "from": 90}],
        "anchors": [{"0": 0.5}, {"0": 0.75, "1": 1.0}],
        "average_accuracy": 0.875,
        "forgetting": -0.25,
        "learned": 2400,
        "memory_bytes": 2_000_000,
        "seconds": 1.25,
        "rows_per_second": 1234.5,
        "about": {"settings": {"ewc.strength": 3, "note": "<b>"}},
        **more,
    }


@pytest.fixture
def found():
    served = {"accuracy": 0.6, "average_accuracy": None, "forgetting": None}
    served["over_time"] = [{"from": 1, "accuracy": 0.6}, {"from": 50, "accuracy": None}]
    results = [result("fine-tune", 0.7), result("ewc+replay", 0.8, difference=None, half=None)]
    return {
        "service": "shop <i>", "from": 1, "to": 100, "sync": 1, "erased": 3,
        "served": served, "results": results,
    }  # fmt: skip


def test_the_best_comes_first_after_what_was_served(found):
    assert [one["strategy"] for one in best_first(found)] == ["ewc+replay", "fine-tune"]
    costs = ["87.5", f"{MINUS}25.0", "2,400", "2 MB", "1.2", "1,234"]
    assert rows(found) == [
        ("As served", ["60.0", *[DASH] * 7]),
        ("EWC + Replay", ["80.0", DASH, *costs]),
        ("Fine-tuning", ["70.0", f"{MINUS}12.5 ± 5.0", *costs]),
    ]
    assert summary_table(found).row_count == 3


def test_the_page_needs_nothing_else_and_quotes_what_it_is_given(found, tmp_path):
    page = write_page(found, tmp_path / "report.html", "lifelong backtest --log <x>").read_text()
    assert page.count("<svg") == 4
    assert "shop &lt;i&gt;" in page
    assert "lifelong backtest --log &lt;x&gt;" in page
    assert "note = &lt;b&gt;" in page
    assert "3 events up to there have been erased" in page
    for outside in ("<script", "http://fonts", "src=", "@import", "url(http"):
        assert outside not in page


def test_one_period_shows_no_curve_of_periods(found, tmp_path):
    for one in found["results"]:
        one["anchors"] = one["anchors"][:1]
    page = write_page(found, tmp_path / "report.html", "").read_text()
    assert page.count("<svg") == 2


def test_names_are_taken_apart():
    assert named(" ewc , der++,,as-configured") == ["ewc", "der++", "as-configured"]
