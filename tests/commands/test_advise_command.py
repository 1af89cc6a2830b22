import json
from pathlib import Path

import pytest

from lifelong.bench.advice import FALLBACK
from lifelong.bench.results import read_results
from lifelong.cli import main

SMALL = ("--set", "epochs=1", "limit=20", "width=10", "curve=0")


def test_it_says_what_to_take_why_and_what_is_ruled_out(capsys: pytest.CaptureFixture[str]):
    assert main(["advise", "--tasks", "50", "--storage", "100MB", "--privacy", "low"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"take {FALLBACK}: in doubt the default")
    assert f"lifelong run digits --strategy {FALLBACK} --set {FALLBACK}." in said
    assert "learner = default_learner(model, " in said
    assert "\n  + " in said
    assert "\n  - " in said
    assert "docs/results.md, Every method on digits, classes added" in said
    out = said.partition("\nruled out\n")[2]
    assert "packnet" in out
    assert "it must be told the task of each row" in out
    lines = len(said.splitlines())
    assert main(["advise", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > lines


def test_it_says_it_to_machines(capsys: pytest.CaptureFixture[str]):
    words = ["--json", "--privacy", "nothing", "--task-known", "--row-bytes", "64"]
    assert main(["advise", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == found["candidates"][0]["method"]
    assert found["constraints"]["increment"] == "task"
    assert found["command"].endswith("scenario=task-incremental head=multi")
    assert {"method": "replay", "constraint": "privacy", "because": "it stores rows"} in found[
        "ruled_out"
    ]


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ["--privacy", "row"], "unknown privacy 'row'; did you mean 'rows'"),
        (2, ["--privacy", "GDPR"], "known: high, low, medium, nothing, rows, statistics"),
        (2, ["--place", "sever"], "did you mean 'server'"),
        (2, ["--increment", "domains"], "did you mean 'domain'"),
        (2, ["--storage", "lots"], "storage is 'lots'; give bytes with a unit"),
        (2, ["--storage", "0", "--privacy", "rows"], "give it a size, such as 10MB"),
        (2, ["--no-boundaries", "--task-known"], "leave boundaries as they are"),
        (2, ["--measure", "digit"], "unknown suite 'digit'; did you mean 'digits'"),
        (2, ["--measure", "digits", "--set", "epoch=1"], "did you mean 'epochs'"),
        (2, ["--measure", "digits", "--minutes", "-1"], "give a time"),
        (2, ["--measure", "digits", "--pretrained"], "leave out --measure or --pretrained"),
        (
            2,
            ["--set", "lr=1"],
            "--set says how methods are tried, and none is; say on what with --",
        ),
        (2, ["--minutes", "10"], "with --measure SUITE, or leave it out"),
        (2, ["--seeds", "0,1", "--workers", "1"], "--seeds and --workers say how methods are"),
        (2, ["--candidates", "4", "--out", "x"], "--measure SUITE, or leave them out"),
        (1, ["--storage", "0"], "with any storage: "),
        (1, ["--no-boundaries", "--privacy", "statistics"], "with rows that may be kept: "),
    ],
)
def test_wrong_use_is_refused_with_the_way_out(
    code: int, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["advise", *words]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("lifelong: ")
    assert said in printed.err


@pytest.mark.parametrize("words", [["--set", "lr"], ["--minutes", "soon"], ["--seeds", "0,0"]])
def test_words_that_make_no_sense_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["advise", *words])
    assert "usage: lifelong advise" in capsys.readouterr().err


def test_it_measures_on_a_suite_and_writes_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    few = ["--minutes", "2", "--candidates", "2", "--seeds", "0,1", "--workers", "1"]
    words = ["advise", "--measure", "digits", *few, "--storage", "20KB", "--out", str(tmp_path)]
    words += SMALL
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "rows kept apart" in said
    assert "Fine-tuning" in said
    assert "Joint" in said
    reasons = said.partition("learner = ")[2].partition("\nthen, untried")[0]
    assert reasons.count("% on rows kept apart (Fine-tuning ") == 2
    assert "docs/results.md" not in reasons
    report = (tmp_path / "report.html").read_text()
    assert "Accuracy against memory" in report
    assert "Accuracy against time" in report
    results = read_results(tmp_path / "results.json")
    names = list(dict.fromkeys(run["strategy"] for run in results))
    assert names[0] == "fine-tune"
    assert names[-1] == "joint"
    assert len(names) == 4

    assert main([*words, "--json"]) == 0  # reads the runs that are over
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == found["measured"]["candidates"][0]["method"]
    assert found["first"] in names[1:3]
    assert [run["seed"] for run in found["measured"]["results"][:2]] == [0, 1]


def test_too_little_time_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--measure", "digits", "--minutes", "0.000001", "--workers", "1", *SMALL]
    assert main(["advise", *words, "--out", str(tmp_path)]) == 2
    assert "no candidate was measured that keeps" in capsys.readouterr().err
