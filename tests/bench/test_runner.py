import json
import multiprocessing as mp
import signal
from pathlib import Path
from typing import Any

import pytest

from lifelong.bench import runner
from lifelong.bench.job import Job
from lifelong.bench.runner import RunFailed, _Pool, run_all
from lifelong.core.errors import LogError, StateMismatch
from tests.bench.small_runs import outcome, small


def folders(tmp_path: Path, count: int) -> list[Path]:
    return [tmp_path / str(number) for number in range(count)]


def test_results_are_in_order_and_the_same_with_one_worker_and_with_two(tmp_path: Path):
    configs = [small("ewc+replay", epochs=4), small("fine-tune"), small("der++", seed=1)]
    told: list[tuple[int, dict[str, Any]]] = []
    two = run_all(
        configs,
        folders(tmp_path / "two", 3),
        workers=2,
        tell=lambda number, event: told.append((number, event)),
    )
    one = run_all(configs, folders(tmp_path / "one", 3), workers=1)
    assert [run["strategy"] for run in two] == ["ewc+replay", "fine-tune", "der++"]
    assert [outcome(run) for run in two] == [outcome(run) for run in one]
    assert {number: event["result"] for number, event in told if "result" in event} == dict(
        enumerate(two)
    )
    assert not mp.active_children()


def test_failures_and_deaths_are_told_and_the_other_runs_go_on(tmp_path: Path):
    configs = [small(epochs=50), small(tasks=7), small("si"), small("replay", seed=3)]
    over: dict[int, dict[str, Any]] = {}

    def tell(number: int, event: dict[str, Any]) -> None:
        if "error" in event or "result" in event:
            over[number] = event
        elif number == 0:
            [pipe] = [pipe for pipe, run in pool.current.items() if run == 0]
            pool.processes[pipe].kill()

    pool = _Pool(configs, folders(tmp_path, 4), tell)
    assert pool.run(1) == over
    assert "killed by SIGKILL (out of memory?)" in over[0]["error"]
    assert "split in 7 tasks" in over[1]["error"]
    assert "Traceback" not in over[1]["error"]
    assert [over[number]["result"]["strategy"] for number in (2, 3)] == ["si", "replay"]
    assert not mp.active_children()


def test_processes_are_started_with_ctrl_c_blocked_and_the_parent_is_not():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with runner._ctrl_c_blocked():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.fixture
def si_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Job._run

    def fail(self: Job) -> dict[str, Any]:
        if self.config["strategy"] == "si":
            raise LogError("the disk is full")
        return run(self)

    monkeypatch.setattr(Job, "_run", fail)


@pytest.mark.usefixtures("si_fails")
def test_a_failing_run_is_named_and_the_results_of_others_are_kept(tmp_path: Path):
    configs = [small(), small("si"), small("replay")]
    with pytest.raises(RunFailed, match=r"1 of 3 .* the first, si seed 0: the disk is") as caught:
        run_all(configs, folders(tmp_path, 3), workers=1)
    assert [each["strategy"] for each in caught.value.results] == ["fine-tune", "replay"]
    for number, strategy in ((0, "fine-tune"), (2, "replay")):
        result = json.loads((tmp_path / str(number) / "result.json").read_text())
        assert result["strategy"] == strategy


@pytest.mark.usefixtures("si_fails")
def test_the_only_run_is_not_counted(tmp_path: Path):
    with pytest.raises(RunFailed, match=r"^si seed 0: the disk is full$"):
        run_all([small("si")], [tmp_path])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": 3}, "10 classes of digits cannot be split in 3 tasks evenly"),
        ({"epochs": 0}, "epochs is 0; it must be an integer of 1 or more"),
        ({"batch": 0}, "batch is 0"),
        ({"on": "valid"}, "no rows are kept apart"),
    ],
)
def test_settings_that_can_never_work_are_refused_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
):
    monkeypatch.setattr(runner, "_end", None)
    monkeypatch.setattr(runner, "_Pool", None)
    configs = [small("ewc"), small("replay", **given), small("replay", seed=1, **given)]
    with pytest.raises(ValueError, match=message):
        run_all(configs, folders(tmp_path, 3), workers=2)
    assert list(tmp_path.iterdir()) == []


def test_another_run_in_any_folder_is_refused_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    places = folders(tmp_path, 3)
    run_all([small("si", lr=0.5)], places[2:])
    there = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(Job, "run", None)
    with pytest.raises(StateMismatch, match=r"2 holds a run with other settings \(lr 0.5 there"):
        run_all([small(), small("replay"), small("si")], places, workers=1)
    assert sorted(tmp_path.rglob("*")) == there


def test_runs_that_are_over_are_told_to_be_read(tmp_path: Path):
    told: list[dict[str, Any]] = []
    for _ in range(2):
        run_all([small()], [tmp_path], tell=lambda _, event: told.append(event))
    ends = [event for event in told if "result" in event]
    assert [event.get("read") for event in ends] == [None, True]


def test_what_should_never_happen_comes_with_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Job, "_run", lambda self: 1 // 0)
    with pytest.raises(RunFailed, match=r"(?s)Traceback.*ZeroDivisionError"):
        run_all([small()], [tmp_path])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed, match=r"Not a directory: .*file/0"):
        run_all([small()], [tmp_path / "file" / "0"])


def test_ctrl_c_comes_through(tmp_path: Path):
    def tell(number: int, event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([small()], [tmp_path], tell=tell)


def test_each_run_needs_a_folder_of_its_own(tmp_path: Path):
    with pytest.raises(ValueError, match=r"2 runs need a folder each; .* 1 of them different"):
        run_all([small(), small("si")], [tmp_path, tmp_path])
    with pytest.raises(ValueError, match="1 runs need a folder each; there are 2"):
        run_all([small()], folders(tmp_path, 2))


@pytest.mark.parametrize(("count", "workers"), [(0, None), (1, 0), (1, -1)])
def test_runs_and_workers_are_one_or_more(tmp_path: Path, count: int, workers: int | None):
    with pytest.raises(ValueError, match="both must be 1 or more"):
        run_all([small()] * count, folders(tmp_path, count), workers=workers)
