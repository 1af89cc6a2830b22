import subprocess
import sys

import pytest
import torch

from lifelong.metrics import cost as costs
from lifelong.metrics.cost import Cost, CostTimer, cost_ratio, peak_rss_mb, state_bytes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(costs, "perf_counter", lambda: now[0])
    return now


def test_only_training_is_counted(clock: list[float]) -> None:
    timer = CostTimer()
    with timer.training():
        clock[0] += 2.0
        timer.count(100)
    clock[0] += 50.0
    with timer.training():
        clock[0] += 0.5
        timer.count(28)
    cost = timer.cost()
    assert (cost.seconds, cost.rows, cost.rows_per_second) == (2.5, 128, 51.2)
    assert cost.peak_gpu_mb is None


def test_an_error_in_training_still_counts_its_time(clock: list[float]) -> None:
    def fail() -> None:
        with timer.training():
            clock[0] += 3.0
            raise KeyError

    timer = CostTimer()
    with pytest.raises(KeyError):
        fail()
    assert timer.cost().seconds == 3.0


def test_misuse_is_refused() -> None:
    timer = CostTimer()
    with pytest.raises(RuntimeError, match="twice"), timer.training(), timer.training():
        pass
    with pytest.raises(ValueError, match="rows is -1"):
        timer.count(-1)


def test_no_time_no_rate() -> None:
    assert Cost(0.0, 0, None).rows_per_second is None


def test_the_peak_grows_with_what_is_held() -> None:
    before = peak_rss_mb()
    held = torch.ones(30_000_000, dtype=torch.uint8)
    assert before is not None
    assert peak_rss_mb() >= before
    assert held.numel() == 30_000_000


def test_growth_is_what_the_run_took_itself_and_not_what_was_held_before() -> None:
    # In a process of its own: one of many tests gives memory back on its own in between.
    told = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True
    ).stdout.split()
    first, grown, peak, fresh = map(float, told)
    assert grown == pytest.approx(first + 30, abs=5)
    assert peak > 90
    assert fresh < 5


GROWTH = """
import torch
from lifelong.metrics.cost import CostTimer

before = torch.ones(60_000_000, dtype=torch.uint8)
timer = CostTimer()
first = timer.cost().growth_mb
held = torch.ones(30_000_000, dtype=torch.uint8)
del held
print(first, timer.cost().growth_mb, timer.cost().peak_rss_mb, CostTimer().cost().growth_mb)
assert len(before) == 60_000_000
"""


def test_growth_is_not_told_where_the_peak_does_not_start_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(costs, "_CLEAR_REFS", tmp_path / "no" / "such")
    assert CostTimer().cost().growth_mb is None


def test_the_peak_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    known = peak_rss_mb()
    monkeypatch.setattr(costs, "_STATUS", tmp_path / "missing")
    monkeypatch.setattr(costs, "_CLEAR_REFS", tmp_path / "no" / "such")
    assert peak_rss_mb() == pytest.approx(known, rel=0.9)
    assert costs.reset_peak_rss() is False


def test_bytes_of_a_nested_state() -> None:
    state = {
        "rows": torch.zeros(10, 3, dtype=torch.uint8),
        "nested": [{"a": torch.zeros(4)}, (torch.zeros(2, dtype=torch.int64), 7)],
        "name": "replay",
        "none": None,
        "view": torch.zeros(100)[:5],
    }
    assert state_bytes(state) == 30 + 16 + 16 + 20
    assert state_bytes({}) == state_bytes(3) == 0


@pytest.mark.parametrize(("seconds", "base"), [(1, 0), (1, -1), (-1, 1), (float("nan"), 1)])
def test_ratios_of_nonsense_are_refused(seconds: float, base: float) -> None:
    with pytest.raises(ValueError, match="seconds is"):
        cost_ratio(seconds, base)
