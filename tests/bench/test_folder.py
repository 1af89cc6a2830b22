import json
from pathlib import Path
from typing import Any

import pytest

from lifelong.bench.folder import anything_saved, check_beside
from lifelong.bench.job import Job
from lifelong.core.errors import StateMismatch
from tests.bench.small_runs import small


def place(jobs: Path, config: dict[str, Any]) -> Path:
    return jobs / f"{config['strategy']}-{config['seed']}"


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A folder that holds replay, seed 1, as it is by itself."""
    config = small("replay", seed=1)
    Job(config, place(tmp_path, config)).run()
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        small("replay", seed=1),
        small("replay"),
        small("si"),
        small("default"),
        small("si", si__strength=7.0),
    ],
)
def test_runs_of_the_same_suite_lie_side_by_side(jobs: Path, config: dict[str, Any]):
    check_beside(jobs, [config])


@pytest.mark.parametrize(
    ("config", "differing"),
    [
        (small("si", lr=0.5), r"\(lr 0.05 there, 0.5 now\)"),
        (small("replay", lr=0.5), r"\(lr 0.05 there, 0.5 now\)"),
        (small("replay", replay__capacity=7), r"\(settings .*200.* there, .*7.* now\)"),
    ],
)
def test_a_run_with_other_settings_beside_is_refused_whatever_its_seed(
    jobs: Path, config: dict[str, Any], differing: str
):
    with pytest.raises(StateMismatch, match=f"replay-1 holds a run with other .*{differing}"):
        check_beside(jobs, [config])


def test_an_interrupted_run_counts_and_a_damaged_one_beside_does_not(tmp_path: Path):
    def stop(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    config = small("replay")
    assert not anything_saved([place(tmp_path, config)])
    with pytest.raises(KeyboardInterrupt):
        Job(config, place(tmp_path, config), stop, every=0).run()
    assert anything_saved([place(tmp_path, config)])
    with pytest.raises(StateMismatch, match=r"lr 0.05 there, 0.5 now"):
        check_beside(tmp_path, [small("si", lr=0.5)])
    (place(tmp_path, config) / "checkpoint.safetensors").write_bytes(b"")
    check_beside(tmp_path, [small("si", lr=0.5)])
    check_beside(tmp_path / "nowhere", [config])


def test_configurations_are_compared_as_a_file_holds_them(jobs: Path):
    path = jobs / "replay-1" / "result.json"
    result = json.loads(path.read_text())
    result["config"]["more"] = [1, 2]
    path.write_text(json.dumps(result))
    check_beside(jobs, [{**small("replay"), "more": (1, 2)}])
