"""Looking back at a whole service in real processes, while it runs."""

import json

import pytest
from small_service import points
from test_service import Service, until

from lifelong.cli import main
from lifelong.serve.log import SQLiteLog
from lifelong.serve.registry import Registry, served

pytestmark = pytest.mark.timeout(300)  # processes that import torch and MLflow


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("service")) as running:
        for i, (x, y) in enumerate(zip(*points(150, seed=1), strict=True)):
            running.client.predict(x, id=f"p{i}", subject=f"s{i % 7}")
            running.client.label(f"p{i}", y)
        until(running.promoted)
        yield running


def test_the_champion_is_made_again_from_the_log(service, capsys):
    number = served(service.state)["champion"]
    assert main(["audit", str(service.state), "--reproduce", str(number), "1"]) == 0
    out = capsys.readouterr().out
    assert f"version {number}, made again from the events up to" in out
    assert "version 1, made again from the events up to 0" in out  # as the learner was made


def test_its_stream_is_replayed_while_it_runs(service, tmp_path):
    words = ["--strategies", "as-configured,fine-tune", "--out", str(tmp_path / "out")]
    assert main(["backtest", "--log", str(service.state), *words]) == 0
    found = json.loads((tmp_path / "out/backtest.json").read_text())
    with SQLiteLog(service.state / "log") as log:
        predictions = [event for event in log.read(0, 10**6) if event.kind == "prediction"]
    assert found["served"]["rows"] == 150 == len(predictions)
    assert found["served"]["average_accuracy"] is not None
    assert found["results"][0]["rows"] >= 150
    assert service.client.predict([0.0] * 6).version >= 1


def test_after_an_erasure_the_new_champion_is_made_again_and_the_old_one_is_not(service, capsys):
    before = served(service.state)["champion"]
    service.client.erase("s3")
    until(lambda: served(service.state)["champion"] > before, 100)
    history = service.state / "trainer/history.json"
    until(lambda: not json.loads(history.read_text())["owed"])
    number = served(service.state)["champion"]
    assert Registry(service.state).get(before).retired == "erasure"
    words = ["audit", str(service.state), "--reproduce", "champion", str(before)]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert f"version {number}, made again from" in out
    assert f"version {before} was retired (erasure): it is not made again" in out
    assert "1 problems in the log" in out
