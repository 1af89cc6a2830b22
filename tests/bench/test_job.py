import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lifelong.bench import job
from lifelong.bench.job import Job, weights_sha256
from lifelong.bench.results import REQUIRED, ResultsError, check_results
from lifelong.core import checkpoint
from lifelong.core.errors import CheckpointError, StateMismatch
from lifelong.core.learner import Learner
from tests.bench.small_runs import outcome, small

Events = list[dict[str, Any]]


@pytest.fixture
def each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every batch be a moment at which a run saves and tells.

    Nothing waits for the disk: what a loss of power leaves is tested with the checkpoints.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    now = iter(range(10**9))
    monkeypatch.setattr(job, "_STRIDE", 1)
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: float(next(now))))


def stopping_at(event: int) -> Callable[[dict[str, Any]], None]:
    events = iter(range(10**9))

    def tell(_: dict[str, Any]) -> None:
        if next(events) == event:
            raise KeyboardInterrupt

    return tell


def test_a_result_has_the_format(tmp_path: Path):
    config = small("ewc+replay")
    result = Job(config, tmp_path).run()
    check_results([result])
    assert set(REQUIRED) <= result.keys()
    assert (result["suite"], result["strategy"], result["seed"]) == ("digits", "ewc+replay", 0)
    assert result["config"] == config
    assert [len(row) for row in result["accuracy"]] == [5] * 5
    assert len(result["tasks"]) == 5
    assert set(result["versions"]) == {"lifelong", "torch", "numpy", "python"}
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_curve_has_its_points_in_order_and_ends_at_each_task(tmp_path: Path):
    result = Job(small(curve=2), tmp_path).run()
    curve = result["curve"]
    assert len(curve) == 5 * 3
    assert [point["rows"] for point in curve] == sorted({point["rows"] for point in curve})
    for position, point in enumerate(curve[2::3]):
        begun = result["accuracy"][position][: position + 1]
        assert point == {"rows": 40 * (position + 1), "accuracy": begun + [None] * (4 - position)}


def test_no_curve_but_the_ends_of_tasks_where_none_is_wanted(tmp_path: Path):
    assert len(Job(small(curve=0), tmp_path).run()["curve"]) == 5


def test_tell_is_told_how_it_goes(tmp_path: Path, each_batch: None):
    told: Events = []
    Job(small(), tmp_path, told.append).run()
    assert [event["batch"] for event in told] == sorted(event["batch"] for event in told)
    assert told[-1]["batch"] == told[-1]["batches"] == 25
    assert {event["tasks"] for event in told} == {5}
    assert told[-1]["accuracy"][-1] is not None


CASES = {
    "ewc+replay": small("ewc+replay"),
    "der++": small("der++", optimizer="adam", augment=True),
    "si": small("si", momentum=0.9),
    "lwf": small("lwf", scenario="task-incremental", head="multi"),
    "joint": small("joint", head="growing"),
    "cumulative": small("cumulative", head="growing"),
}


@pytest.mark.parametrize("case", CASES)
def test_interrupted_at_any_moment_and_resumed_gives_the_same_result(
    case: str, tmp_path: Path, each_batch: None
):
    config, told = CASES[case], []
    whole = outcome(Job(config, tmp_path / "whole", told.append, every=0).run())
    moments = random.Random(case).sample(range(len(told)), 2)
    for moment in {len(told) - 1, *moments}:
        folder = tmp_path / str(moment)
        with pytest.raises(KeyboardInterrupt):
            Job(config, folder, stopping_at(moment), every=0).run()
        assert not (folder / "result.json").exists()
        assert outcome(Job(config, folder).run()) == whole


def test_interrupted_at_every_moment_in_turn_gives_the_same_result(
    tmp_path: Path, each_batch: None
):
    config, told = small("ewc+replay", tasks=2), []
    whole = outcome(Job(config, tmp_path / "whole", told.append, every=0).run())
    stops = 0
    while not (tmp_path / "cut" / "result.json").exists():
        try:
            Job(config, tmp_path / "cut", stopping_at(0), every=0).run()
        except KeyboardInterrupt:
            stops += 1
    assert stops == len(told)
    assert outcome(Job(config, tmp_path / "cut").run()) == whole


def test_interrupted_while_it_saves_it_goes_on_from_the_save_before(
    tmp_path: Path, each_batch: None, monkeypatch: pytest.MonkeyPatch
):
    config = small("replay")
    whole = outcome(Job(config, tmp_path / "whole").run())
    replace, calls = os.replace, iter(range(10**9))

    def cut(*names: Any) -> None:
        if next(calls) == 7:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        Job(config, tmp_path / "cut", every=0).run()
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint.safetensors"]
    assert outcome(Job(config, tmp_path / "cut").run()) == whole


def test_the_seconds_of_all_parts_are_added_up(tmp_path: Path, each_batch: None):
    with pytest.raises(KeyboardInterrupt):
        Job(small(), tmp_path, stopping_at(20), every=0).run()
    path = tmp_path / "checkpoint.safetensors"
    state = checkpoint.load(path)
    state["progress"]["seconds"] = 1000.0
    checkpoint.save(path, state)
    assert 1000.0 < Job(small(), tmp_path).run()["seconds"] < 1100.0


SCRIPT = """
import sys, json
from pathlib import Path
from lifelong.bench import job
job._STRIDE = 1
job.Job(json.loads(sys.argv[1]), Path(sys.argv[2]), every=0).run()
"""


def test_killed_at_random_moments_and_resumed_gives_the_same_result(tmp_path: Path):
    config, chance = small("ewc+replay", epochs=4), random.Random(0)
    whole = outcome(Job(config, tmp_path / "whole").run())
    folder, path = tmp_path / "cut", tmp_path / "cut" / "checkpoint.safetensors"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(config), folder])
        before = path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert path.exists()
    assert outcome(Job(config, folder).run()) == whole
    assert [each.name for each in folder.iterdir()] == ["result.json"]


def test_a_run_that_is_over_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result = Job(small("si"), tmp_path).run()
    monkeypatch.setattr(Learner, "observe", None)
    assert Job(small("si"), tmp_path).run() == json.loads(json.dumps(result))


@pytest.mark.parametrize("over", [True, False])
def test_another_configuration_in_the_folder_is_refused(
    tmp_path: Path, each_batch: None, over: bool
):
    if over:
        Job(small(), tmp_path).run()
    else:
        with pytest.raises(KeyboardInterrupt):
            Job(small(), tmp_path, stopping_at(3), every=0).run()
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = r"other settings \(batch 8 there, 4 now; seed 0 there, 1 now\); choose another --out"
    with pytest.raises(StateMismatch, match=message):
        Job(small(seed=1, batch=4), tmp_path).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, each_batch: None, damage: str):
    with pytest.raises(KeyboardInterrupt):
        Job(small(), tmp_path, stopping_at(3), every=0).run()
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"cut": content[:-9], "altered": content, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=f"{path}.*delete {tmp_path} to run from the start"):
        Job(small(), tmp_path).run()


def test_a_checkpoint_of_another_learner_is_refused(tmp_path: Path, each_batch: None):
    with pytest.raises(KeyboardInterrupt):
        Job(small("replay"), tmp_path, stopping_at(3), every=0).run()
    path = tmp_path / "checkpoint.safetensors"
    state = checkpoint.load(path)
    del state["learner"]["model"]["head.bias"]
    checkpoint.save(path, state)
    with pytest.raises(StateMismatch, match=f"delete {tmp_path} to run from the start"):
        Job(small("replay"), tmp_path).run()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": {}}', '{"config": 3}'])
def test_a_damaged_result_is_refused(tmp_path: Path, content: str):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ResultsError, match=r"result.json is damaged .*; delete it to run again"):
        Job(small(), tmp_path).run()


def test_forward_transfer_is_measured_against_the_untrained_model(tmp_path: Path):
    result = Job(small(scenario="permuted", tasks=2, epochs=2), tmp_path / "a").run()
    made = Job(small(scenario="permuted", tasks=2, epochs=2), tmp_path / "b")
    stops: list[float] = []

    def first(_: dict[str, Any]) -> None:
        stops.extend(made.progress["initial"])

    made.tell = first
    made.run()
    assert result["forward_transfer"] == pytest.approx(result["accuracy"][0][1] - stops[1])


def test_tasks_told_but_not_begun_count_as_chance_at_first(tmp_path: Path):
    run = Job(small(scenario="task-incremental", head="multi"), tmp_path)
    run.run()
    assert run.progress["initial"] == [0.5] * 5


def test_memory_bytes_are_those_that_are_kept(tmp_path: Path):
    kept = {
        name: Job(small(name, **more), tmp_path / name).run()["memory_bytes"]
        for name, more in {
            "fine-tune": {},
            "replay": {"replay__capacity": 50},
            "ewc": {},
            "cumulative": {},
        }.items()
    }
    parameters = (64 * 20 + 20) + (20 * 20 + 20) + (20 * 10 + 10)
    assert kept["fine-tune"] == 0
    assert kept["ewc"] == 2 * 4 * parameters
    assert kept["cumulative"] == 200 * (64 + 8)
    assert 50 * (64 + 8) <= kept["replay"] <= 50 * (64 + 8 * 8)


def test_on_valid_measures_rows_that_are_kept_apart(tmp_path: Path):
    made = Job(small(validation=0.25, on="valid"), tmp_path / "valid")
    made.run()
    assert [len(rows) for rows in made.tests] == [10] * 5
    with pytest.raises(ValueError, match=r"no rows are kept apart .* set validation=0.1"):
        Job(small(on="valid"), tmp_path / "none").run()


@pytest.mark.parametrize("bound", ["joint", "cumulative"])
def test_bounds_are_measured_on_the_same_rows_and_do_not_learn_them(bound: str, tmp_path: Path):
    plain = Job(small(validation=0.25, on="valid"), tmp_path / "plain")
    made = Job(small(bound, validation=0.25, on="valid"), tmp_path / "bound")
    plain.prepare()
    made.prepare()
    for ours, theirs in zip(made.tests, plain.tests, strict=True):
        assert torch.equal(ours.x, theirs.x)
    learned = {row.tobytes() for row in made.stream.tasks[-1].train.x.numpy()}
    kept = [row.tobytes() for rows in made.tests for row in rows.x.numpy()]
    assert sum(row in learned for row in kept) < 5  # digits that are drawn alike, if any
    made.run()


def test_a_run_leaves_the_threads_and_the_random_state_of_the_process(tmp_path: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        Job(small("der++", augment=True), tmp_path).run()
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def test_the_digest_tells_weights_apart():
    net = torch.nn.Linear(2, 2)
    before = weights_sha256(net)
    with torch.no_grad():
        net.bias[0] += 1e-6
    assert weights_sha256(net) != before


def test_the_memory_of_a_run_grows_with_what_it_keeps_and_not_with_the_runs_before(tmp_path: Path):
    def growth(name: str, capacity: int) -> float:
        made = small("replay", replay__capacity=capacity)
        found: float = Job(made, tmp_path / name).run()["growth_mb"]
        return found

    growth("first", 10)
    for name in "ab":
        # Rows of 64 bytes of pixels and three numbers of 8 bytes, all set aside from the start.
        assert growth(f"{name}-few", 10) < 10
        assert growth(f"{name}-many", 500_000) > 10
