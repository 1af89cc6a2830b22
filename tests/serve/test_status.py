import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import apsw
import msgspec
import pytest
from fakes import connect, parts

from lifelong.serve.audit import Audit
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog
from lifelong.serve.progress import Ended, Learned, Point, Progress
from lifelong.serve.quarantine import LAST, Quarantine, Refused, refused, refused_counts
from lifelong.serve.status import SHOWN, Status, runs
from lifelong.serve.versions import Version, write_record


class Folder:
    """A service's folder without the service, and a status of it."""

    def __init__(self, path):
        self.path = path
        (path / "trainer").mkdir()
        self.log = SQLiteLog(path / "log", write=True)
        self.audit = Audit(path / "audit.jsonl")
        self.time = 1000.0
        for number in (1, 2):
            self.version(number)
        self.status = Status(
            path, self.log, self.audit, lambda: (2, None),
            clock=lambda: self.time, pace=lambda: self.time,
        )  # fmt: skip

    def version(self, number, **more):
        folder = self.path / "versions" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"note": "", "hashes": {}, "time": 1.0, "metrics": {"rows": 8.0}, **more}
        offsets = {"first_offset": 1, "last_offset": number}
        parent = number - 1 or None
        made = Version(
            number=number, id=f"v{number}", parent=parent, folder=folder, **offsets, **facts
        )
        write_record(folder, made)

    def tell(self, **more):
        known = Progress(time=self.time, pid=os.getpid(), offset=0)
        content = msgspec.json.encode(msgspec.structs.replace(known, **more))
        (self.path / "trainer" / "status.json").write_bytes(content)

    def now(self, **more):
        self.time += 1.0
        self.tell(**more)
        return self.look()

    def look(self):
        self.time += 0.5
        found = self.status.now()
        return json.loads(msgspec.json.encode(found))  # as a client sees it

    def close(self):
        self.log.close()
        self.audit.close()


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    yield made
    made.close()


def get(path, key="operate", **more):
    async def main():
        async with connect(parts(**more), key=key) as client:
            return await client.get(path)

    return asyncio.run(main())


def test_only_operators_may_look():
    for path in ("/status", "/quarantine", "/audit"):
        assert get(path).status_code == 200
        assert get(path, key="predict").status_code == 403
        assert get(path, key=None).status_code == 401
    assert get("/status").json() == {"champion": 1, "caller": "operate"}


def test_a_page_is_asked_for_in_the_query():
    row = {"after": 3, "limit": 2, "before": None}
    assert get("/quarantine?after=3&limit=2").json() == {"rows": [row]}
    assert get("/audit?before=9").json()["entries"] == [{"after": 0, "limit": 100, "before": 9}]
    for path in ("/quarantine?limit=501", "/audit?after=x", "/audit?page=1"):
        response = get(path)
        assert response.status_code == 422
        assert response.json()["error"].keys() == {"what", "how"}


def test_a_trainer_that_has_told_nothing_or_nonsense_breaks_nothing(folder):
    for content in (None, b"", b'{"time": 1}', b"[1, 2", b'{"time": 1, "pid": 1, "offset": "x"}'):
        if content is not None:
            (folder.path / "trainer" / "status.json").write_bytes(content)
        found = folder.look()
        assert found["trainer"]["state"] == "unknown"
        assert "status.json" in found["trainer"]["why"] or "nothing yet" in found["trainer"]["why"]
        assert found["anchors"] is found["matrix"] is found["delay"] is found["trial"] is None
        assert found["champion"] == 2
        assert [one["version"] for one in found["versions"]["newest"]] == [2, 1]


def test_a_trainer_is_alive_silent_or_dead(folder):
    assert folder.now()["trainer"]["state"] == "alive"
    folder.time += 6.0
    found = folder.look()["trainer"]
    assert found["state"] == "silent"
    assert found["age"] == pytest.approx(7.0)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while runs(child.pid):  # it ends at once, and is a zombie until it is waited for
        time.sleep(0.01)
    assert folder.now(pid=child.pid)["trainer"]["state"] == "dead"
    child.wait()
    for pid in (child.pid, 0, -1, 2**40):
        assert folder.now(pid=pid)["trainer"]["state"] == "dead"


def test_events_are_counted_and_the_trainer_is_behind_by_those_it_has_not_seen(folder):
    folder.status.sample()
    folder.log.append([Event("tick", f"t{i}", 0.0, {}) for i in range(8)])
    folder.time += 2.0
    folder.status.sample()
    found = folder.now(offset=5)
    assert found["events"]["per_second"]["tick"] == 4.0
    assert found["events"]["totals"]["tick"] == 8
    assert found["trainer"]["behind"] == 3


def test_figures_of_the_trainer_are_passed_on(folder):
    points = [Point(1.0, 2, {0: 0.5, 10: 1.0}, {0: 0.25, 10: 0.0}, 0.75)]
    matrix = [Ended(0, 0, 9, {0: 1.0}), Ended(1, 1, 19, {0: 0.5, 1: 0.75})]
    found = folder.now(
        points=points, matrix=matrix, anchors={10: 4, 0: 8}, best={0: 0.75, 10: 1.0},
        recent=(3, 4), of_period=(0, 0),
    )  # fmt: skip
    assert found["accuracy"]["recent"] == {"rows": 4, "accuracy": 0.75}
    assert found["accuracy"]["period"] == {"rows": 0, "accuracy": None}
    assert [one["group"] for one in found["anchors"]["groups"]] == [0, 10]
    first = {"group": 0, "rows": 8, "accuracy": 0.5, "best": 0.75, "forgetting": 0.25}
    assert found["anchors"]["groups"][0] == first
    assert found["anchors"]["mean"] == 0.125
    assert found["anchors"]["kind"] == "period"
    assert found["matrix"]["forgetting"] == {"0": 0.5, "1": None}  # the last one's own is none
    assert found["matrix"]["mean"] == 0.5


def test_the_delay_ends_when_the_audit_has_the_promotion(folder, monkeypatch):
    learned = [Learned(2, 1, 2, [900.0, 904.0]), Learned(3, 3, 1, [990.0])]
    monkeypatch.setattr("lifelong.serve.audit.time.time", lambda: 910.0)
    folder.audit.append("erase", "key", {"events": 3})
    folder.audit.append("promote", "key", {"version": 2, "reason": "better"})
    delay = folder.now(learned=learned, unreleased=(5, 980.0))["delay"]
    assert (delay["p50"], delay["p99"], delay["rows"]) == (6.0, 10.0, 2)
    assert delay["waiting"] == 6
    assert delay["oldest"] == pytest.approx(folder.time - 980.0)


def test_an_audit_that_was_altered_is_noticed(folder):
    for version in (2, 3):
        folder.audit.append("promote", "key", {"version": version, "reason": "better"})
    audit = folder.now()["audit"]
    assert (audit["entries"], audit["problems"]) == (2, [])
    assert [entry["n"] for entry in audit["tail"]] == [2, 1]
    path = folder.path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"better", b"BETTER", 1))
    folder.time += 10.0  # all of it is read again from time to time
    assert "line 1 was altered" in folder.look()["audit"]["problems"][0]
    path.write_bytes(b"")
    folder.time += 10.0
    assert "was cut" in folder.look()["audit"]["problems"][0]


def test_what_is_refused_is_listed_without_what_it_held(folder):
    told = folder.look()["quarantine"]
    assert told == {"counts": {}, "newest": []}
    quarantine = Quarantine(folder.path / "trainer")
    quarantine.add(
        Refused(i, f"ann-{i}", "shop", "schema" if i % 2 else "quota", "x: 12345.5 is out of range")
        for i in range(1, 41)
    )
    told = folder.look()["quarantine"]
    assert told["counts"] == {"quota": 20, "schema": 20}
    assert len(told["newest"]) == SHOWN
    assert told["newest"][0] == {"offset": 40, "reason": "quota", "source": "shop"}
    assert "12345.5" not in json.dumps(folder.look())
    assert "ann" not in json.dumps(folder.look())
    quarantine.close()


def test_pages_of_the_quarantine_go_both_ways(tmp_path):
    assert refused(tmp_path, 5) == []
    quarantine = Quarantine(tmp_path)
    quarantine.add(Refused(i, f"e{i}", None, "norm", "") for i in range(1, 11))

    def offsets(**page):
        return [row["offset"] for row in refused(tmp_path, 3, **page)]

    assert offsets() == [1, 2, 3]
    assert offsets(after=3) == [4, 5, 6]
    assert offsets(before=LAST) == [10, 9, 8]
    assert offsets(before=8) == [7, 6, 5]
    assert offsets(after=5, before=8) == [7, 6]
    assert offsets(after=10) == offsets(before=1) == []
    assert refused_counts(tmp_path) == {"norm": 10}
    # Reading leaves nothing open: what is forgotten there does not stay behind.
    quarantine.forget(1)
    assert not (tmp_path / "quarantine.db-wal").stat().st_size
    quarantine.close()


def test_a_damaged_quarantine_is_said_to_be(folder):
    (folder.path / "trainer" / "quarantine.db").write_bytes(b"no database" * 500)
    told = folder.look()["quarantine"]
    assert "cannot be read" in told["why"]
    with pytest.raises(apsw.Error):
        apsw.Connection(str(folder.path / "trainer/quarantine.db")).execute("select 1 from refused")


def test_the_newest_versions_and_the_champion_are_shown(folder):
    for number in range(3, 50):
        folder.version(number)
    folder.version(49, retired="erasure")
    (folder.path / "versions" / "48" / "version.json").write_text("{")
    (folder.path / "versions" / ".new").mkdir()
    served = {"champion": 2, "challenger": None, "previous": [1]}
    (folder.path / "served.json").write_text(json.dumps(served))
    found = folder.look()["versions"]
    assert found["total"] == 49
    assert found["previous"] == [1]
    numbers = [one["version"] for one in found["newest"]]
    assert numbers == [49, *range(47, 19, -1), 2, 1]  # 48 is damaged
    assert found["newest"][0]["retired"] == "erasure"
    assert found["newest"][0]["servable"] is False
    assert found["newest"][1]["metrics"] == {"rows": 8.0}


def test_answers_are_shared_for_half_a_second(folder, monkeypatch):
    folder.now()
    calls = []
    monkeypatch.setattr(Status, "_gather", lambda self: calls.append(1) or {})
    for _ in range(5):
        folder.time += 0.25
        folder.status.now()
    assert len(calls) == 2


def test_a_closed_log_leaves_the_rest(folder):
    folder.log.close()
    folder.status.sample()
    found = folder.now()
    assert found["trainer"]["why"] == "the event log cannot be read"
    assert found["events"]["totals"] == {}


def test_the_routes_are_documented():
    made = parts()
    document = asyncio.run(_document(replace(made)))
    assert {p["name"] for p in document["paths"]["/audit"]["get"]["parameters"]} == {
        "after", "limit", "before",
    }  # fmt: skip
    assert "parameters" not in document["paths"]["/status"]["get"]
    assert "/console" not in document["paths"]


async def _document(made):
    async with connect(made) as client:
        return (await client.get("/openapi.json")).json()
