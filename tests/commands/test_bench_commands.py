import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifelong.bench import build, report, reproduce, suites
from lifelong.bench.job import Job
from lifelong.bench.recipes import RECIPES
from lifelong.bench.results import read_results
from lifelong.bench.suites import SUITES, resolve
from lifelong.cli import main
from lifelong.commands import arguments
from lifelong.commands.bench import LISTS
from lifelong.core.errors import LogError
from lifelong.core.learner import Learner
from tests.bench.small_runs import outcome
from tests.bench.test_reproduce import TINY

SMALL = ["--set", "epochs=1", "limit=10", "width=10", "curve=1"]
GIVEN = {"epochs": 1, "limit": 10, "width": 10, "curve": 1}


def run(out: Path, *more: str, small: tuple[str, ...] = tuple(SMALL)) -> int:
    words = ["run", "digits", "--workers", "1", "--out", str(out), *small, *more]
    return main(words)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write_report", lambda results, out, **words: out / "report.html")


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """Run a command that ends in an error; return what it says."""
    capsys.readouterr()
    assert main(words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.splitlines()[-1].startswith("lifelong: ")
    return printed.err


def test_run_writes_results_and_a_report_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ("--strategy", "fine-tune", "ewc+replay", "--seeds", "0,1")
    assert run(tmp_path, *words) == 0
    printed = capsys.readouterr()
    first = read_results(tmp_path / "results.json")
    assert [(each["strategy"], each["seed"]) for each in first] == [
        ("fine-tune", 0),
        ("fine-tune", 1),
        ("ewc+replay", 0),
        ("ewc+replay", 1),
    ]
    assert f"the report is {tmp_path / 'report.html'}" in printed.out
    assert len(printed.err.splitlines()) == 4
    assert "<html" in (tmp_path / "report.html").read_text()
    assert list(tmp_path.glob("*.png"))
    monkeypatch.setattr(Learner, "observe", None)
    assert run(tmp_path, *words) == 0
    assert read_results(tmp_path / "results.json") == first
    capsys.readouterr()
    message = refused(capsys, 2, "run", "digits", "--out", str(tmp_path), "--strategy", "fine-tune")
    assert len(message.splitlines()) == 1
    assert "holds a run with other settings (curve 1 there, 4 now; epochs 1 there, 10" in message
    assert "choose another --out" in message


@pytest.mark.usefixtures("no_report")
def test_runs_are_logged_to_a_registry_that_mlflow_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_report: None
):
    words = ("--strategy", "fine-tune", "replay", "--registry", str(tmp_path / "tracked"))
    assert run(tmp_path / "out", *words) == 0
    uri = f"sqlite:///{tmp_path}/tracked/registry.db"
    assert f"logged 2 runs; see them with: mlflow ui --backend-store-uri {uri}" in (
        capsys.readouterr().out
    )
    assert run(tmp_path / "out", *words) == 0  # logged once
    from mlflow.tracking import MlflowClient  # what `mlflow ui` reads with

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("digits")
    found = client.search_runs([experiment.experiment_id])
    assert sorted(each.data.params["strategy"] for each in found) == ["fine-tune", "replay"]
    results = read_results(tmp_path / "out" / "results.json")
    shown = {each.data.params["strategy"]: each.data.metrics for each in found}
    for each in results:
        assert shown[each["strategy"]]["average_accuracy"] == each["average_accuracy"]


def test_a_registry_without_the_extra_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    monkeypatch.setattr(Learner, "observe", None)
    message = refused(capsys, 1, "run", "digits", "--registry", str(tmp_path / "tracked"))
    assert "mlflow is not installed; pip install 'lifelong[serve]' brings it" in message
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_command_line_reach_the_run(tmp_path: Path):
    words = ["--strategy", "replay", "--set", "lr=0.5", "model=cnn", "--set", "replay.capacity=7"]
    assert run(tmp_path, *words, "momentum=0", "augment=true") == 0
    [result] = read_results(tmp_path / "results.json")
    config = result["config"]
    assert {name: config[name] for name in GIVEN} == GIVEN
    assert (config["lr"], config["model"], config["augment"]) == (0.5, "cnn", True)
    assert config["settings"] == {"replay": {"capacity": 7}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digit"], "unknown suite 'digit'; did you mean 'digits'"),
        (["run", "digits", "--strategy", "ewk"], "unknown strategy 'ewk'; did you mean 'ewc'"),
        (["run", "digits", "--strategy", "si", "si"], "--strategy si si; name each of them once"),
        (["run", "digits", "--set", "lr"], "--set 'lr'; write KEY=VALUE"),
        (["run", "digits", "--set", "=1"], "--set '=1'; write KEY=VALUE"),
        (["run", "digits", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["run", "digits", "--set", "tasks=3"], "cannot be split in 3 tasks evenly; take one of"),
        (["run", "digits", "--set", "epochs=0"], "epochs is 0; it must be an integer of 1 or"),
        (["run", "digits", "--set", "epochs=x"], "epochs is 'x'; it must be of type int"),
        (["run", "digits", "--set", "ewc.strength=x"], "strength is 'x'; it must be of type float"),
        (["run", "digits", "--set", "si.strength=1"], "unknown strategy of this run 'si'"),
        (["run", "digits", "--set", "replay.store=jpeg"], "as the poorest JPEG, more than the 13"),
        (["run", "digits", "--set", "replay.store=uint8"], "it is for floats of a known range"),
        (["run", "digits", "--workers", "0"], "workers is 0"),
        (["list", "suits"], "did you mean 'suites'"),
        (["reproduce", "split-mnist-bufers"], "did you mean 'split-mnist-buffers'"),
    ],
)
def test_wrong_use_is_refused_with_the_way_out(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    out = [] if words[0] == "list" else ["--out", str(tmp_path / "out")]
    told = refused(capsys, 2, *words, *out)
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["rum"],
        ["run"],
        ["run", "digits", "--seeds", "a"],
        ["run", "digits", "--seeds", "1,1"],
        ["run", "digits", "--seeds=-1"],
        ["run", "digits", "--workers", "two"],
    ],
)
def test_words_that_make_no_command_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 2
    assert "usage: lifelong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage", "told"),
    [
        (["advise", "--storge", "2MB"], "lifelong advise", "'--storge'; did you mean '--storage'?"),
        (["run", "digits", "--strateg=ewc", "--sets", "a=1"], "lifelong run", "mean '--set'?"),
        (["serve", "c.yaml", "--prot", "1"], "lifelong serve", "unknown option '--prot'; "),
        (["reproduce", "--onto", "x"], "lifelong reproduce", "did you mean '--into'?"),
        (["audit", "d", "--confg", "c"], "lifelong audit", "did you mean '--config'?"),
        (["backtest", "--log", "d", "--form", "3"], "lifelong backtest", "did you mean '--from'?"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(
    words: list[str], usage: str, told: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert said.startswith(f"usage: {usage} ")
    assert told in said


def test_demo_ends_by_itself_with_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    small = replace(SUITES["digits"], epochs=1, limit=10, width=10, curve=1)
    monkeypatch.setattr(suites, "SUITES", {"digits": small})
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--part", "core", "--workers", "1"]) == 0
    assert len(read_results("runs/demo/results.json")) == 6 * 3
    assert Path("runs/demo/report.html").exists()
    assert "DER++" in capsys.readouterr().out


def test_list_shows_all(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    for name in LISTS:
        assert main(["list", name]) == 0
        assert capsys.readouterr().out in everything
    names = [*SUITES, *RECIPES, *reproduce.table_names(), "mnist", "reservoir"]
    assert all(f"  {name} " in everything for name in names)


def test_reproduce_shows_ours_beside_the_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(reproduce, "FOLDER", tmp_path)
    words = ["reproduce", "--seeds", "0,1", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "## A tiny table" in printed.out
    assert "joint, 20 rows, seed 1: " in printed.err
    assert (tmp_path / "out" / "tiny" / "table.md").read_text() in printed.out
    assert (tmp_path / "out" / "tiny" / "table.json").exists()


def test_a_table_for_a_gpu_runs_without_one_only_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "tiny.toml").write_text("gpu = true\n" + TINY)
    monkeypatch.setattr(reproduce, "FOLDER", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["--seeds", "0", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(["reproduce", *words]) == 0
    assert "tiny: left out, as it would take days without a GPU; name" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["reproduce", "tiny", *words]) == 0
    assert "## A tiny table" in capsys.readouterr().out


def test_data_that_cannot_be_had_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LIFELONG_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    build._named.cache_clear()
    words = ["run", "split-mnist-class", "--strategy", "ewc", "--out", str(tmp_path / "out")]
    message = refused(capsys, 1, *words, "--workers", "1")
    assert "train-images-idx3-ubyte.gz is in none of" in message
    assert "set LIFELONG_DATA to that folder" in message


def test_an_out_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    words = ["run", "digits", "--strategy", "si", "--workers", "1", *SMALL]
    assert "Not a directory" in refused(capsys, 1, *words, "--out", str(tmp_path / "file" / "out"))


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_is_said_and_the_checkpoint_before_survives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = {**resolve("digits", "si", GIVEN | {"width": 100}), "seed": 0}

    def stop(_: dict) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "jobs" / "si-0"
    with pytest.raises(KeyboardInterrupt):
        Job(config, folder, stop, every=0).run()
    path = folder / "checkpoint.safetensors"
    before = path.read_bytes()
    words = ("run", "digits", "--strategy", "si", "--workers", "1", "--out", str(tmp_path), *SMALL)
    with no_file_longer_than(20_000):
        message = refused(capsys, 1, *words, "width=100")
    assert f"cannot write {path}: File too large; it needs 371,328 bytes there" in message
    assert path.read_bytes() == before
    assert [each.name for each in folder.iterdir()] == [path.name]
    assert main([*words, "width=100"]) == 0
    [result] = read_results(tmp_path / "results.json")
    whole = Job(config, tmp_path / "whole").run()
    assert outcome(result) == outcome(json.loads(json.dumps(whole)))


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(tmp_path: Path):
    words = ["run", "digits", "--strategy", "ewc", "replay", "--set", "limit=20", "epochs=60"]
    out = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "lifelong", *words, "--workers", "2", "--out", out],
        start_new_session=True,
        # A shell's background jobs ignore the signal, and so would what these tests start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(out.glob("jobs/*/checkpoint.safetensors")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped; the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said
    assert printed == ""
    end = time.monotonic() + 5
    while exists(process.pid):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.01)
    assert not (out / "results.json").exists()
    assert main([*words, "--workers", "1", "--out", str(out)]) == 0
    for result in read_results(out / "results.json"):
        whole = Job(result["config"], tmp_path / result["strategy"]).run()
        assert outcome(result) == outcome(json.loads(json.dumps(whole)))


def test_ctrl_c_returns_130_and_says_what_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    def stop(self: Job) -> None:
        if self.config["seed"] == 1:
            raise KeyboardInterrupt
        self.folder.mkdir(parents=True)
        self.path.touch()
        raise LogError("the disk is full")

    monkeypatch.setattr(Job, "run", stop)
    assert run(tmp_path, "--strategy", "si", "--seeds", "1") == 130
    assert "nothing was saved yet" in capsys.readouterr().err
    assert run(tmp_path, "--strategy", "si", "--seeds", "0,1") == 130
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_folder_with_runs_of_other_settings_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert run(tmp_path, "--strategy", "replay", "--set", "lr=0.5") == 0
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(Learner, "observe", None)
    words = ("run", "digits", *SMALL, "--out", str(tmp_path), "--strategy")
    for strategies in (["ewc", "der++"], ["ewc", "replay"], ["replay"]):
        message = refused(capsys, 2, *words, *strategies)
        assert "replay-0 holds a run with other settings (lr 0.5 there, 0.001 now)" in message
        assert len(message.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == there


@pytest.mark.usefixtures("no_report")
def test_runs_that_did_not_fail_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    go = Job._run

    def fail(self: Job) -> dict[str, Any]:
        if self.config["strategy"] == "ewc":
            raise LogError("the disk is full")
        return go(self)

    monkeypatch.setattr(Job, "_run", fail)
    assert run(tmp_path, "--strategy", "ewc", "si", "replay") == 1
    printed = capsys.readouterr()
    assert "1 of 3 runs failed; the first, ewc seed 0: the disk is full" in printed.err
    assert "the report is" in printed.out
    found = read_results(tmp_path / "results.json")
    assert [each["strategy"] for each in found] == ["si", "replay"]


@pytest.mark.parametrize("missing", ["rich", "jinja2", "matplotlib"])
def test_what_the_report_needs_is_asked_for_once_and_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None if name == missing else name)
    monkeypatch.setattr(Learner, "observe", None)
    message = refused(capsys, 1, "demo", "--part", "core")
    assert message == (
        f"lifelong: {missing} is not installed; pip install 'lifelong[bench]' brings it\n"
    )


def test_a_reader_that_leaves_gets_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["list"]) == 1
    assert capsys.readouterr().err == ""
