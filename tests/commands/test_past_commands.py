import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))  # where what they share is
from recorded import Recorded, files, stream
from small_service import examples

from lifelong.bench.replays import rows, summary_table
from lifelong.cli import main
from lifelong.commands.past import choices
from lifelong.core import checkpoint
from lifelong.serve.trainer import Plan


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Recorded(tmp_path_factory.mktemp("service"), stream(120)) as made:
        made.version()
        made.add(examples(40, seed=8))
        yield made


def test_a_back_test_writes_a_table_a_page_and_the_numbers(service, tmp_path, capsys):
    before = files(service.state)
    words = ["backtest", "--log", str(service.state), "--strategies", "as-configured,ewc+replay"]
    words += ["--set", "ewc.strength=3", "train.batch=16", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert files(service.state) == before
    told = capsys.readouterr().out
    assert "As served" in told
    assert "EWC + Replay" in told
    found = json.loads((tmp_path / "out/backtest.json").read_text())
    assert found["results"][1]["about"]["settings"] == {"ewc.strength": 3, "train.batch": 16}
    assert found["results"][1]["about"]["plan"]["batch"] == 16
    assert found["results"][0]["about"]["plan"]["batch"] == 8
    assert found["results"][0]["weights_sha256"] != found["results"][1]["weights_sha256"]
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "ewc.strength = 3" in page
    assert summary_table(found).row_count == 3
    assert rows(found)[0][0] == "As served"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--strategies", "ewk"], "unknown strategy 'ewk'; did you mean 'ewc'?"),
        (["--strategies", "as-configurd"], "did you mean 'as-configured'?"),
        (["--strategies", "joint"], "joint needs all rows at once"),
        (["--strategies", "ewc", "--set", "ewc.strenth=1"], "did you mean 'strength'?"),
        (["--strategies", "ewc", "--set", "si.strength=1"], "back-test 'si.strength'; known: ewc"),
        (["--strategies", "ewc", "--set", "train.bach=1"], "did you mean 'batch'?"),
        (["--strategies", "ewc", "--set", "train.batch=0"], "batch is 0; it must be 1 or more"),
        (["--strategies", "ewc", "--set", "lr=high"], "lr is 'high'; give a number"),
        (["--strategies", "ewc", "--set", "rl=high"], "did you mean 'lr'?"),
        (["--strategies", "ewc", "--set", "lr"], "write KEY=VALUE"),
        (["--strategies", ""], "name one or more"),
        (["--from", "9", "--to", "3"], "from 9 to 3"),
        (["--log", "nowhere"], "nowhere is not the folder of a service"),
    ],
)
def test_wrong_use_is_explained(service, tmp_path, capsys, words, told):
    given = ["backtest", "--log", str(service.state), "--out", str(tmp_path), *words]
    assert main(given) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_each_choice_has_its_own_settings():
    made = choices(
        ["as-configured", "ewc", "der++"], ["ewc.strength=2", "train.anchors=0", "lr=1"], Plan()
    )
    assert [choice.settings for choice in made] == [
        {},
        {"ewc.strength": 2, "train.anchors": 0, "lr": 1},
        {"train.anchors": 0, "lr": 1},
    ]
    assert [choice.plan for choice in made] == [None, Plan(anchors=0), Plan(anchors=0)]
    assert [type(one).__name__ for one in made[1].strategies()] == ["EWC"]
    assert made[1].strategies()[0].strength == 2


def test_a_learner_of_before_is_written_to_a_file(service, tmp_path, capsys):
    version = service.versions[0]
    for number, words in enumerate([["--at", str(version.last_offset)], ["--version", "1"]]):
        path = tmp_path / f"{number}.safetensors"
        assert main(["rebuild", str(service.path), *words, "--out", str(path)]) == 0
        learner = service.config.factory()()
        learner.load_state_dict(checkpoint.load(path))
        assert learner.steps > 0
    one, two = ((tmp_path / f"{n}.safetensors").read_bytes() for n in (0, 1))
    assert one == two
    assert "after event" in capsys.readouterr().out
    assert main(["rebuild", str(service.path), "--at", "99999", "--out", str(path)]) == 1
    assert "the log in" in capsys.readouterr().err


KILLED = """
import sys, lifelong.serve.replayed as replayed
from lifelong.cli import main
replayed.SAVE_SECONDS, replayed._CHUNK = 0.0, 20
sys.exit(main(sys.argv[1:]))
"""


def test_killed_it_goes_on_where_it_was(service, tmp_path, capsys):
    """SIGKILL at some moment after a checkpoint; then the same command again."""
    words = ["backtest", "--log", str(service.state), "--strategies", "as-configured,ewc+replay"]
    killed = [*words, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *killed])
    checkpoint = tmp_path / "killed/jobs/as-configured/checkpoint.safetensors"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "killed/jobs").exists()
    assert main(killed) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    found = [json.loads((tmp_path / n / "backtest.json").read_text()) for n in ("killed", "whole")]
    for result in (result for one in found for result in one["results"]):
        result.pop("seconds"), result.pop("rows_per_second")
    assert found[0] == found[1]
