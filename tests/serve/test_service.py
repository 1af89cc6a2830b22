"""The whole service in real processes: learning, releasing, killing, erasing."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from small_service import points

from lifelong.bench.job import weights_sha256
from lifelong.cli import main
from lifelong.serve import outside
from lifelong.serve.client import Client, ServiceError
from lifelong.serve.config import Config
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.outside import Outside, free_port
from lifelong.serve.registry import Registry, served
from lifelong.serve.trainer import Trainer

MODEL = """
import torch
from torch.optim import SGD
from lifelong import DERpp, Learner
from lifelong.nets import MLP

def learner():
    torch.manual_seed(0)
    net = MLP(6, hidden=(16,), outputs=4)
    return Learner(net, SGD(net.parameters(), lr=0.1), [DERpp(64, rows=8)], seed=1)
"""
CONFIG = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
train: {batch: 8, period: 400, anchors: 0.1, every: 100}
release: {every: 0.2, rows: 40}
serve: {port: PORT, flush: 0.1}
"""


pytestmark = pytest.mark.timeout(300)  # processes that import torch and MLflow, several times over


class Service(Outside):
    """A service in a folder of its own."""

    def __init__(self, folder):
        super().__init__(folder / "state")
        self.folder = folder
        self.port = free_port()
        (folder / "model.py").write_text(textwrap.dedent(MODEL))
        self.path = folder / "service.yaml"
        self.path.write_text(CONFIG.replace("PORT", str(self.port)))
        self.client = Client(f"http://127.0.0.1:{self.port}", attempts=12, pause=0.1)

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lifelong", "serve", str(self.path)],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: self.api_pid() and self.ready(), 200)
        except BaseException:
            self.__exit__(None)
            raise
        return self

    def __exit__(self, *error):
        self.stop()
        if error[0] is not None:
            print(self.out)

    def stop(self):
        if self.process.returncode is None:
            self.process.terminate()
            out, _ = self.process.communicate(timeout=40)
            self.client.close()
            self.out = out.decode()

    def promoted(self):
        if served(self.state)["champion"] > 1:
            return True
        self.teach(10, seed=time.time_ns())
        return False

    def api_pid(self):
        try:
            return json.loads((self.state / "api.json").read_text())["pid"]
        except (OSError, ValueError):
            return None

    def trainer_pid(self):
        return until(lambda: self.status().get("pid"))

    def teach(self, rows, seed):
        for i, (x, y) in enumerate(zip(*points(rows, seed), strict=True)):
            self.client.example(x, y, id=f"e{seed}-{i}", subject=f"s{i % 7}")

    def caught_up(self):
        status = self.status()
        return status["offset"] >= self.last()

    def accuracy(self, rows=60):
        x, y = points(rows, seed=77)
        return np.mean(
            [self.client.predict(row).label == label for row, label in zip(x, y, strict=True)]
        )


def until(done, seconds=40.0):
    return outside.until(done, seconds, "what was waited for")


def learned_from(service):
    """The weights of a new trainer that reads the service's log from the start, undisturbed."""
    config = Config.read(service.path)
    schema, _, _ = config.parts()
    with SQLiteLog(service.state / "log") as log:
        trainer = Trainer(
            service.folder / "undisturbed", log, config.factory(), Checked(schema), config.train,
            classes=range(4),
        )  # fmt: skip
        trainer.catch_up()
        again = Trainer(
            service.state / "trainer", log, config.factory(), Checked(schema), config.train,
            classes=range(4),
        )  # fmt: skip
        again.catch_up()
        return weights_sha256(trainer.learner.model), weights_sha256(again.learner.model)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One service for the tests below, in their order: to start one takes seconds."""
    with Service(tmp_path_factory.mktemp("service")) as running:
        yield running


def test_it_learns_and_goes_on_when_it_is_killed(service):
    before = service.accuracy()
    with pytest.raises(ServiceError, match="422: x: 3"):
        service.client.predict([1.0, 2.0, 3.0])
    service.teach(150, seed=1)
    until(service.promoted)
    os.kill(service.trainer_pid(), signal.SIGKILL)
    service.teach(100, seed=2)
    assert service.client.predict([0.0] * 6).version >= 1  # served while the trainer was dead
    os.kill(service.api_pid(), signal.SIGKILL)
    service.teach(100, seed=3)  # the client tries again until it is back
    until(service.caught_up)
    assert service.accuracy() > max(before, 0.8)
    assert service.client.predict([0.0] * 6).version == served(service.state)["champion"] > 1


def test_a_subject_is_erased_from_everything(service):
    secret = [12345.5, 54321.25, 0.0, 0.0, 0.0, 0.0]
    service.client.example(secret, 1, id="secret", subject="ann")
    service.teach(60, seed=4)
    until(service.caught_up)
    id = service.client.erase("ann")["id"]
    assert service.client.erasure(id)["state"] in ("log removed", "learner rebuilt", "done")
    service.teach(20, seed=5)
    until(service.caught_up)
    until(lambda: not json.loads((service.state / "trainer/history.json").read_text())["owed"])
    receipt = service.client.erasure(id)
    assert receipt["state"] == "done"
    assert receipt["events"]["removed"] == 1
    assert receipt["learner"]["checkpoint"] < receipt["events"]["offsets"][0][0]
    assert receipt["versions"]["served"]["version"] == served(service.state)["champion"]
    assert receipt["sha256"] in (service.state / "audit.jsonl").read_text()
    with pytest.raises(ServiceError, match="404: no erasure"):
        service.client.erasure("nobody")
    raw = np.array(secret, np.float32).tobytes()
    for path in service.state.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"12345.5" not in content, path
            assert b'"ann"' not in content, path
            assert raw not in content, path


def test_an_earlier_version_is_served_at_once(service):
    service.client.rollback("a test", to=1, id="back")
    assert service.client.predict([0.0] * 6).version == 1


def test_what_it_learned_is_what_an_undisturbed_run_learns(service, capsys):
    until(service.caught_up)
    service.stop()
    undisturbed, own = learned_from(service)
    assert undisturbed == own
    code = main(["audit", str(service.state)])
    told = capsys.readouterr().out
    assert code == 0, told
    assert "0 problems" in told
    assert Registry(service.state).alias("champion") is not None
    assert "trainer has ended (signal SIGKILL); it starts again" in service.out
    assert "rollback version 1, says local" in service.out
    assert f"stopped; {service.state} has all that it knows" in service.out


def test_wrong_use_is_refused_at_the_start(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    for text, told in [
        (
            "{learner: x.py:f, schema: {shape: [2], classes: 2}, serve: {prot: 1}}",
            "did you mean 'port'",
        ),
        ("{schema: {shape: [2], classes: 2}}", "learner is missing"),
        ("learner: [", "is not YAML: line 1, column 11: expected the node content"),
        ("{learner: no.py:f, schema: {shape: [2], classes: 2}}", "give FILE.py:FUNCTION"),
    ]:
        path.write_text(text)
        assert main(["serve", str(path)]) == 2
        assert told in capsys.readouterr().err
