import json
from dataclasses import replace

import pytest
from small_service import CLASSES, Checks, ListLog, examples, make_learner

from lifelong.core.errors import LifelongError, RegistryError
from lifelong.serve.config import Release
from lifelong.serve.events import Event
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Plan, Trainer
from lifelong.serve.watch import Guard
from lifelong.serve.watched import Watched

PLAN = Plan(batch=8, period=0, anchors=0.1, every=60, warmup=30)
ASKED = Release(guard=Guard(floor=0.2, drop=0.3, rows=20))


def trained(folder, rows):
    trainer = Trainer(folder, ListLog(examples(rows, seed=9)), make_learner, Checks(), PLAN)
    trainer.catch_up()
    return trainer.learner.model


class Process:
    """A trainer that a champion is watched by; it may be killed, and starts again."""

    def __init__(self, folder, settings=ASKED):
        self.folder, self.settings, self.log = folder, settings, ListLog()
        models = {1: trained(folder / "one", 60), 2: trained(folder / "two", 100)}
        self.versions = {number: Snapshot(number, model) for number, model in models.items()}
        self.start(1)

    def load(self, number):
        if number not in self.versions:
            raise RegistryError(f"there is no version {number}")
        return self.versions[number]

    def start(self, champion):
        self.trainer = Trainer(
            self.folder, self.log, make_learner, Checks(), PLAN, classes=range(CLASSES)
        )
        self.watched = Watched(self.folder / "watch.json", self.settings, self.load)
        self.trainer.saving = self.watched.save
        self.trainer.watch = lambda batch, came: self.watched.add(
            self.watched.champion, batch, came
        )
        self.watched.becomes(champion, promoted=False)

    def teach(self, events):
        self.log.append(events)
        self.trainer.catch_up()

    def state(self):
        self.watched.save()
        return json.loads((self.folder / "watch.json").read_text())


@pytest.fixture
def process(tmp_path):
    found = Process(tmp_path)
    found.teach(examples(90))
    found.watched.becomes(2, promoted=True)
    return found


def test_a_process_that_is_killed_again_and_again_comes_to_the_same_watch(tmp_path):
    found = []
    for name, kills in (("undisturbed", ()), ("killed", (101, 102, 130, 199, 260))):
        process = Process(tmp_path / name)
        for place, event in enumerate(examples(300)):
            process.teach([event])
            if place == 100:
                process.watched.becomes(2, promoted=True)
            if place in kills:
                process.start(2)
        process.trainer.catch_up()
        found.append(process.state())
    assert found[0] == found[1]
    others = found[0]["watch"]["others"]
    assert list(others) == ["the floor of 0.2", "a drop of 0.3"]
    assert others["a drop of 0.3"]["n"] == found[0]["watch"]["guardrail"]["n"] > 100


def test_rows_that_are_learned_again_count_once(process):
    process.teach(examples(60, seed=1, subject="ann")[:1] + examples(60, seed=2))
    before = process.watched.watch.guardrail.n
    erased = process.log.erase("ann")
    process.log.append([Event("erasure", "x", 0.0, {"first": erased})])
    process.trainer.catch_up()
    # One row that waited for a full batch is in the place of the one that is gone.
    assert process.watched.watch.guardrail.n == before + 1
    process.teach(examples(40, seed=3))
    assert before + 30 < process.watched.watch.guardrail.n <= before + 41


def test_rows_in_quarantine_accuse_nobody(process, monkeypatch):
    def counted():
        assert process.trainer.at.rows - rows == process.watched.watch.guardrail.n
        return process.watched.watch.guardrail.n

    rows = process.trainer.at.rows
    process.teach(examples(40, seed=1))
    few = counted()
    far = [replace(e, data={"x": [1e4] * len(e.data["x"]), "y": 0}) for e in examples(40, seed=2)]
    process.teach(far)
    assert process.trainer.quarantine.counts()["norm"] > 20
    with monkeypatch.context() as patch:

        def fails(batch):
            raise LifelongError("this batch cannot be learned from")

        patch.setattr(process.trainer.learner, "observe", fails)
        process.teach(examples(40, seed=3))
    assert process.trainer.quarantine.counts()["error"] > 20
    assert counted() < few + 8  # that had waited for a full batch
    process.teach(examples(40, seed=4))
    assert counted() > few + 20


def test_a_promotion_that_the_process_did_not_live_to_see_is_watched(process):
    process.watched.becomes(1, promoted=False)
    assert process.watched.watch is None
    process.watched.promotes(2)
    process.start(2)
    assert process.watched.before.version == 1
    process.teach(examples(40, seed=1))
    assert process.watched.watch.guardrail.n > 20
    process.start(1)  # as an operator decided, while it was dead
    assert process.watched.watch is None


def test_a_watch_that_has_ended_stays_so(process):
    process.watched.ends()
    process.start(2)
    assert (process.watched.watch, process.watched.champion.version) == (None, 2)


def test_where_the_version_before_is_gone_the_floor_is_left(process):
    del process.versions[1]
    process.start(2)
    before = process.watched.watch.guardrail.n
    process.teach(examples(40, seed=1))
    watch = process.watched.watch
    assert (process.watched.before, watch.guardrail.n) == (None, before)
    assert watch.others["the floor of 0.2"].n > before


@pytest.mark.parametrize("text", ["{", "[]", '{"seen": 3}', '{"seen": "3", "lately": ""}'])
def test_a_damaged_file_is_told_of_and_stops_nobody(process, caplog, text):
    (process.folder / "watch.json").write_text(text)
    process.start(2)
    assert (process.watched.watch, process.watched.champion.version) == (None, 2)
    assert "watched no more" in caplog.text
    process.teach(examples(40, seed=1))
    process.start(2)
    assert caplog.text.count("watched no more") == 1
