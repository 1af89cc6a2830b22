import json
from dataclasses import dataclass

import pytest
from small_service import CLASSES, Checks, ListLog, examples, make_learner

from lifelong.core import restore
from lifelong.serve.config import Release
from lifelong.serve.events import Event
from lifelong.serve.gate import Gate
from lifelong.serve.releases import Releases, Trial
from lifelong.serve.trainer import Plan, Trainer
from lifelong.serve.weights import weights_of

GATE = Gate(0.05, minimum=30, minimum_group=10, standard="observed", patience=400)


@dataclass
class Held:
    number: int
    last_offset: int
    weights: dict
    learner: bool = True
    retired: str | None = None


class FakeRegistry:
    """What `Releases` uses of a registry, without MLflow."""

    def __init__(self, folder):
        self.folder, self.held, self.ids = folder, [], {}
        folder.mkdir(exist_ok=True)
        self.register(weights_of(make_learner()), None, last_offset=0, id="start")
        self.serve(1)

    def register(self, weights, learner, *, last_offset, id, **more):
        if id not in self.ids:
            self.held.append(Held(len(self.held) + 1, last_offset, restore.copied(weights)))
            self.ids[id] = self.held[-1]
        return self.ids[id]

    def serve(self, number, previous=()):
        now = {"champion": number, "challenger": None, "previous": list(previous)}
        (self.folder / "served.json").write_text(json.dumps(now))

    def versions(self):
        return self.held

    def get(self, number):
        return self.held[number - 1]

    def load_weights(self, number):
        return self.get(number).weights

    def previous_champion(self):
        return 1

    def drop_learners(self, numbers):
        for number in numbers:
            self.get(number).learner = False

    def retire(self, number, reason):
        self.get(number).retired = reason

    def prune(self, **more):
        pass


class Loop:
    """A trainer, its releases and an api that does what it is asked."""

    def __init__(self, folder, mode="automatic"):
        self.log = ListLog()
        self.plan = Plan(batch=8, period=0, anchors=0.1, every=100)
        self.trainer = Trainer(
            folder / "trainer", self.log, make_learner, Checks(), self.plan, classes=range(CLASSES)
        )
        self.registry = FakeRegistry(folder / "state")
        self.asked = []
        settings = Release(mode=mode, every=0.0, rows=40)
        self.releases = Releases(self.trainer, self.registry, GATE, settings, self.ask)

    def ask(self, what, body):
        self.asked.append((what, body))
        number = body["version"] if what == "promote" else body["to"]
        self.registry.serve(number, [1])
        if body.get("discard"):
            data = {"action": what, "discard_after": self.registry.get(number).last_offset}
            self.log.append([Event("decision", body["id"], 0.0, data)])

    def teach(self, events):
        for event in events:
            self.log.append([event])
            self.trainer.step()
            self.releases.consider()


@pytest.fixture
def loop(tmp_path):
    return Loop(tmp_path)


def test_what_is_better_on_rows_that_neither_has_learned_is_promoted(loop):
    loop.teach(examples(400))
    assert {what for what, _ in loop.asked} == {"promote"}
    assert loop.asked[0][1]["version"] == 2
    assert all(0 < len(body["reason"]) <= 250 for _, body in loop.asked)
    assert loop.releases._champion.version == loop.asked[-1][1]["version"]


def test_other_modes_ask_for_nothing(tmp_path):
    for mode in ("recommend", "manual"):
        (tmp_path / mode).mkdir()
        loop = Loop(tmp_path / mode, mode)
        loop.teach(examples(400))
        assert loop.asked == []
        assert len(loop.registry.held) > 1


def test_a_champion_that_gets_less_right_is_rolled_back_and_the_learner_with_it(loop):
    loop.teach(examples(300))
    good = loop.releases._champion
    assert good.version > 1
    untrained = weights_of(make_learner())  # passed the gate, for all that is known
    bad = loop.registry.register(untrained, None, last_offset=loop.trainer.at.offset, id="bad")
    loop.releases.trial = Trial(loop.releases._snapshot(bad.number), good, bad.last_offset)
    loop.registry.serve(bad.number, [1, good.version])
    before = len(loop.asked)
    loop.teach(examples(120, seed=5))
    rollback = next(body for what, body in loop.asked[before:] if what == "rollback")
    assert rollback["to"] == 1
    assert rollback["discard"] is True
    loop.teach(examples(8, seed=6))
    assert loop.trainer.quarantine.counts().get("range", 0) > 0


def test_rows_that_are_harder_for_both_are_not_the_champions_fault(loop):
    loop.teach([e for e in examples(500) if e.data["y"] < 2])
    champion = loop.releases._champion.version
    assert champion > 1
    assert loop.releases.guard is not None
    loop.teach([e for e in examples(500, seed=5) if e.data["y"] >= 2])  # classes it never saw
    assert all(what == "promote" for what, _ in loop.asked)
    assert loop.trainer.quarantine.counts().get("range", 0) == 0


def test_a_candidate_is_judged_when_there_is_something_new(loop, monkeypatch):
    loop.teach(examples(60))
    assert loop.releases.trial is not None
    calls = []
    monkeypatch.setattr(
        Gate, "judge", lambda self, evidence: calls.append(1) or pytest.fail("judged again")
    )
    loop.releases.consider()
    assert calls == []


def test_after_an_erasure_versions_that_saw_it_are_replaced_and_retired(loop):
    loop.teach(examples(300, subject="ann")[:1] + examples(300)[1:])
    champion = loop.releases._champion.version
    assert champion > 1
    first = loop.log.erase("ann")
    loop.teach([Event("erasure", "x", 0.0, {"first": first})])
    for _ in range(5):
        loop.trainer.catch_up()
        loop.releases.consider()
    new = loop.releases._champion.version
    assert new > champion
    for version in loop.registry.held[1 : new - 1]:
        assert version.retired == "erasure"
        assert not version.learner
    assert loop.registry.get(1).retired is None
    assert loop.trainer.history.owed == {}
