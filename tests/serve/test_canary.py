"""A canary in real processes: who answers whom, what a kill changes, promotion and withdrawal."""

import json
import os
import signal

import pytest
from small_service import points
from test_service import Service, until

from lifelong.serve import audit
from lifelong.serve.log import SQLiteLog
from lifelong.serve.registry import Registry, served

pytestmark = pytest.mark.timeout(300)  # processes that import torch and MLflow

CANARY = "release: {every: 0.2, rows: 40, canary: {share: [0.3, 0.6], rows: 12}}"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("canary"))
    text = service.path.read_text().replace("release: {every: 0.2, rows: 40}", CANARY)
    assert CANARY in text
    service.path.write_text(text)
    with service:
        yield service


class Users:
    """Forty people who ask, and whose labels come at once."""

    def __init__(self, service):
        self.service, self.asked = service, 0

    def ask(self, rows=20):
        for x, y in zip(*points(rows, seed=1000 + self.asked), strict=True):
            name = f"user {self.asked % 40}"
            answer = self.service.client.predict(x, id=f"p{self.asked}", subject=name)
            self.service.client.label(answer.id, y)
            self.asked += 1

    def until(self, done):
        def asked():
            found = done()
            if not found:
                self.ask()
            return found

        return until(asked, 120)


def told(service):
    lines = (service.state / "audit.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [(entry["action"], entry["details"].get("version")) for entry in entries]


def test_a_candidate_answers_some_users_and_then_all(service):
    users = Users(service)
    users.until(lambda: served(service.state)["challenger"])
    before = service.client.candidate()["canary"]
    names = [f"someone {i}" for i in range(40)]
    versions = [service.client.predict([0.0] * 6, subject=name).version for name in names]
    assert set(versions) == {before["champion"], before["challenger"]}
    os.kill(service.api_pid(), signal.SIGKILL)
    again = [service.client.predict([0.0] * 6, subject=name).version for name in names]
    assert again == versions
    now = service.client.candidate()["canary"]
    assert (now["champion"], now["since"]) == (before["champion"], before["since"])
    os.kill(service.trainer_pid(), signal.SIGKILL)
    users.until(lambda: ("promote", before["challenger"]) in told(service))
    assert told(service).count(("challenge", before["challenger"])) == 2  # 0.3, then 0.6
    with SQLiteLog(service.state / "log") as log:
        events = [e for e in log.read(before["since"], 10000) if e.kind == "prediction"]
    chances = {(e.data["version"], e.data["propensity"]) for e in events}
    old, new = before["champion"], before["challenger"]
    assert {(old, 0.7), (new, 0.3), (old, 0.4), (new, 0.6)} <= chances


def test_a_bad_canary_is_withdrawn_by_itself(service):
    service.client.challenge(1, 0.5, "a test", id="bad")
    # The audit tells it for good; the alias may have been withdrawn again before it is read.
    assert told(service).count(("challenge", 1)) == 1
    users = Users(service)
    users.asked = 10_000
    users.until(lambda: ("withdraw", 1) in told(service))
    assert Registry(service.state).alias("challenger") != 1
    assert served(service.state)["challenger"] != 1
    assert audit.verify(service.state / "audit.jsonl") == []
    assert service.client.predict([0.0] * 6).version != 1
