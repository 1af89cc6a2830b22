import re
from types import SimpleNamespace
from typing import Any

import pytest

from lifelong.bench import progress
from lifelong.bench.progress import RunProgress

CONFIGS = [{"strategy": name, "seed": seed} for name in ("ewc", "si") for seed in (0, 1)]


def event(batch: int, task: int = 0, tasks: int = 5) -> dict[str, Any]:
    accuracy = [0.5] * (task + 1) + [None] * (tasks - task - 1)
    return {"batch": batch, "batches": 100, "task": task, "tasks": tasks, "accuracy": accuracy}


RESULT = {"result": {"average_accuracy": 0.9125, "seconds": 12.34}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def left(shown: RunProgress) -> str:
    found: str = shown.bars.tasks[0].fields["left"]
    return found


def test_without_a_terminal_each_run_that_ends_is_a_line(capsys: pytest.CaptureFixture[str]):
    with RunProgress(CONFIGS) as shown:
        shown.tell(0, event(10))
        shown.tell(0, RESULT)
        shown.tell(1, {"error": "[disk] full"})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "EWC, seed 0: 91.25 % in 12.3 s\nEWC, seed 1: failed: [disk] full\n"


def test_a_line_is_never_broken_and_says_what_was_only_read(capsys: pytest.CaptureFixture[str]):
    long = "sklearn is not installed; " * 4 + "pip install 'lifelong[bench]' brings it"
    with RunProgress(CONFIGS) as shown:
        shown.tell(0, {"error": long})
        shown.tell(1, {**RESULT, "read": True})
    assert capsys.readouterr().err == (
        f"EWC, seed 0: failed: {long}\nEWC, seed 1: 91.25 % in 12.3 s, read from an earlier run\n"
    )


def test_the_time_left_follows_from_what_was_done_here(clock: SimpleNamespace):
    shown = RunProgress(CONFIGS)
    shown.tell(0, event(0))
    clock.now = 10.0
    shown.tell(0, event(50))
    assert left(shown) == "0:01:10"  # 3.5 runs at 20 s each
    clock.now = 20.0
    shown.tell(0, RESULT)
    assert left(shown) == "0:01:00"


def test_what_earlier_processes_did_took_no_time(clock: SimpleNamespace):
    shown = RunProgress(CONFIGS)
    shown.tell(0, RESULT)
    shown.tell(1, event(60, 3))
    assert left(shown) == "-:--:--"
    clock.now = 10.0
    shown.tell(1, event(80, 4))
    assert left(shown) == "0:01:50"  # 0.2 + 2 runs at 50 s each
    shown.tell(1, RESULT)
    shown.tell(2, RESULT)
    shown.tell(3, RESULT)
    assert left(shown) == "0:00:00"
    assert shown.bars.tasks[0].finished


@pytest.mark.parametrize("tasks", [5, 10, 50])
def test_bars_fit_a_terminal_of_80_columns(
    terminal: None, capsys: pytest.CaptureFixture[str], tasks: int
):
    with RunProgress(CONFIGS, ["a method of a long name, seed 0", *"bcd"]) as shown:
        shown.tell(0, event(30, 1, tasks))
        shown.bars.refresh()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()
    line = [line.strip() for line in lines if "a method" in line][-1]
    assert "30 %" in line
    assert f"task 2/{tasks}" in line
    assert "…" not in line
    assert len(line) <= 80


def test_accuracies_of_each_task_are_shown_where_there_is_room(terminal: None):
    shown = RunProgress(CONFIGS)
    shown.tell(0, event(30, 1))
    assert shown.bars.tasks[1].fields["told"] == "task 2/5   50  50   ·   ·   ·"
    shown.tell(1, event(30, 1, 10))
    assert shown.bars.tasks[2].fields["told"] == "task 2/10  mean 50"
