import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from small_service import CLASSES, Checks, ListLog, examples, make_learner, points

from lifelong.core import restore
from lifelong.serve.config import Release
from lifelong.serve.events import Event
from lifelong.serve.gate import Gate
from lifelong.serve.releases import Releases
from lifelong.serve.rollout import Canary, Exposure
from lifelong.serve.trainer import Plan, Trainer
from lifelong.serve.trial import Trial
from lifelong.serve.watch import Guard
from lifelong.serve.weights import weights_of

GATE = Gate(0.05, minimum=30, minimum_group=10, standard="observed", patience=400)


@dataclass
class Held:
    number: int
    last_offset: int
    weights: dict
    learner: bool = True
    retired: str | None = None

    @property
    def hashes(self):
        return {"weights.safetensors": f"sha256 of {self.number}"}


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

    def serve(self, number, previous=(), **more):
        now = {"champion": number, "challenger": None, "previous": list(previous), **more}
        (self.folder / "served.json").write_text(json.dumps(now))

    def expose(self, number, share, since, time=0.0):
        now = json.loads((self.folder / "served.json").read_text())
        facts = {"champion": now["champion"], "challenger": number, "share": share, "since": since}
        (self.folder / "canary.json").write_text(
            json.dumps({**facts, "time": time, "changed": time})
        )
        self.serve(now["champion"], now["previous"], challenger=number)

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

    def __init__(self, folder, mode="automatic", gate=GATE, **settings):
        self.log = ListLog()
        self.plan = Plan(batch=8, period=0, anchors=0.1, every=100)
        self.trainer = Trainer(
            folder / "trainer", self.log, make_learner, Checks(), self.plan, classes=range(CLASSES)
        )
        self.registry = FakeRegistry(folder / "state")
        self.asked = []
        self.now = 1000.0
        self.releases = Releases(
            self.trainer,
            self.registry,
            gate,
            Release(mode=mode, every=0.0, rows=40, **settings),
            self.ask,
            now=lambda: self.now,
        )

    def of(self, what):
        return [body for asked, body in self.asked if asked == what]

    def ask(self, what, body):
        self.asked.append((what, body))
        number = body.get("to", body.get("version"))
        if what in ("promote", "rollback"):
            self.registry.serve(number, [1])
        elif what == "challenge":
            self.registry.expose(body["version"], body["share"], self.log.last, self.now)
        elif what == "withdraw":
            self.registry.serve(self.releases.champion.version, [1])
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
    assert {what for what, _ in loop.asked} == {"verdict", "promote"}
    assert loop.of("promote")[0]["version"] == 2
    assert all(0 < len(body["reason"]) <= 250 for body in loop.of("promote"))
    said = loop.of("verdict")[0]
    assert (said["version"], said["verdict"], said["recommend"]) == (2, "promote", False)
    assert said["report"]["findings"]
    assert loop.releases.champion.version == loop.of("promote")[-1]["version"]


def test_other_modes_say_what_they_found_and_go_on(tmp_path):
    for mode in ("recommend", "manual"):
        (tmp_path / mode).mkdir()
        loop = Loop(tmp_path / mode, mode)
        loop.teach(examples(400))
        assert {what for what, _ in loop.asked} == {"verdict"}
        passed = [said for said in loop.of("verdict") if said["verdict"] == "promote"]
        assert passed
        assert all(said["recommend"] == (mode == "recommend") for said in passed)
        assert len(loop.registry.held) > 2


def test_a_champion_that_gets_less_right_is_rolled_back_and_the_learner_with_it(loop):
    loop.teach(examples(300))
    promoted = loop.of("promote")
    assert promoted
    good = loop.releases.champion
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
    champion = loop.releases.champion.version
    assert champion > 1
    assert loop.releases.guard is not None
    loop.teach([e for e in examples(500, seed=5) if e.data["y"] >= 2])  # classes it never saw
    assert {what for what, _ in loop.asked} <= {"promote", "verdict"}
    assert loop.trainer.quarantine.counts().get("range", 0) == 0


def wrong(rows, seed):
    """Rows whose labels are wrong for every version."""
    made = examples(rows, seed)
    return [replace(e, data={**e.data, "y": (e.data["y"] + 1) % CLASSES}) for e in made]


@pytest.mark.parametrize("guard", [Guard(), Guard(floor=0.5), Guard(drop=0.3, rows=50)])
def test_labels_that_are_wrong_for_both_are_undone_where_that_is_asked(tmp_path, guard):
    loop = Loop(tmp_path, guard=guard)
    loop.teach(examples(300))
    good = loop.releases.champion
    weights = loop.registry.load_weights(good.version)
    twin = loop.registry.register(weights, None, last_offset=loop.log.last, id="twin").number
    loop.releases.trial = Trial(loop.releases._snapshot(twin), good, loop.log.last)
    loop.registry.serve(twin, [1, good.version])
    loop.teach(examples(8, seed=4))
    assert loop.releases.guard is not None
    loop.teach(wrong(48, seed=5))
    asked = loop.of("rollback")
    if guard == Guard():
        assert asked == []
    else:
        told = "the floor of 0.5" if guard.floor else "a drop of 0.3"
        [body] = asked  # once: what is served now was not promoted, and is held to nothing
        assert f"version {twin} breached {told}" in body["reason"]
        assert body["discard"] is True


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
    champion = loop.releases.champion.version
    assert champion > 1
    first = loop.log.erase("ann")
    loop.teach([Event("erasure", "x", 0.0, {"first": first})])
    for _ in range(5):
        loop.trainer.catch_up()
        loop.releases.consider()
    new = loop.releases.champion.version
    assert new > champion
    for version in loop.registry.held[1 : new - 1]:
        assert version.retired == "erasure"
        assert not version.learner
    assert loop.registry.get(1).retired is None
    assert loop.trainer.history.owed == {}


class Users:
    """Predictions by whoever the exposure says, with their labels."""

    def __init__(self, loop, seed=50):
        self.loop, self.n = loop, 0
        self.points = list(zip(*points(2000, seed), strict=True))

    def ask(self, rows, right=lambda version: True):
        for _ in range(rows):
            x, y = self.points[self.n]
            self.n += 1
            now = json.loads((self.loop.registry.folder / "served.json").read_text())
            version = now["champion"]
            if now["challenger"]:
                exposure = Exposure.read(self.loop.registry.folder)
                version = exposure.assignment().version(f"u{self.n}")
            said = y if right(version) else (y + 1) % CLASSES
            data = {"x": x, "version": version, "output": np.eye(CLASSES)[said].tolist()}
            self.loop.teach(
                [
                    Event("prediction", f"q{self.n}", 0.0, data),
                    Event("label", f"m{self.n}", 0.0, {"y": y}, about=f"q{self.n}"),
                ]
            )


CANARY = Canary(share=[0.25, 0.5], rows=15)


def exposed(folder, **settings):
    """A loop whose first candidate has passed the gate and answers some users."""
    loop = Loop(folder, canary=CANARY, **settings)
    users = Users(loop)
    while not loop.of("challenge"):
        users.ask(4)
    return loop, users


def test_a_candidate_that_passes_answers_some_users_then_more_then_all(tmp_path):
    loop, users = exposed(tmp_path)
    assert loop.of("promote") == []
    while not loop.of("promote"):
        users.ask(4)
    shares = [(body["version"], body["share"]) for body in loop.of("challenge")]
    assert shares == [(2, 0.25), (2, 0.5)]
    assert loop.of("promote")[0]["version"] == 2
    assert "canary: version 2 has" in loop.of("promote")[0]["reason"]
    loop.releases.consider()
    assert (loop.releases.rollout, loop.releases.champion.version) == (None, 2)
    assert loop.releases.guard is not None


def test_a_challenger_that_answers_badly_is_withdrawn_though_it_is_good_in_shadow(tmp_path):
    loop, users = exposed(tmp_path)
    while not loop.of("withdraw"):  # its answers go wrong on the way, say
        users.ask(4, right=lambda version: version == 1)
    assert "shown to be worse" in loop.of("withdraw")[0]["reason"]
    assert loop.of("promote") == []
    assert loop.releases.rollout is None
    before = len(loop.registry.held)
    users.ask(60)
    assert len(loop.registry.held) > before  # the next candidate has its turn


def test_a_trainer_that_starts_again_goes_on_with_the_canary(tmp_path):
    loop, users = exposed(tmp_path)
    users.ask(30)
    rows = dict(loop.releases.rollout.live.rows)
    loop.releases = Releases(
        loop.trainer, loop.registry, GATE, loop.releases.settings, loop.ask, now=lambda: loop.now
    )
    loop.releases.consider()
    assert loop.releases.rollout.live.rows == rows
    assert loop.releases.trial.candidate.version == 2


def test_a_canary_that_an_operator_began_is_watched_in_recommend_mode(tmp_path):
    loop = Loop(tmp_path, "recommend", canary=Canary(rows=15))
    loop.teach(examples(60))
    loop.registry.expose(2, 0.5, loop.log.last, loop.now)
    users = Users(loop)
    while not any("canary" in said["reasons"][0] for said in loop.of("verdict")):
        users.ask(4)
    said = loop.of("verdict")[-1]
    assert (said["version"], said["verdict"], said["recommend"]) == (2, "promote", True)
    assert said["report"]["share"] == 0.5
    assert {what for what, _ in loop.asked} == {"verdict"}
    while not loop.of("withdraw"):
        users.ask(4, right=lambda version: version == 1)


def test_out_of_bounds_is_recommended_instead(tmp_path):
    loop = Loop(tmp_path, hourly=1)
    loop.teach(examples(500))
    assert len(loop.of("promote")) == 1
    beyond = [said for said in loop.of("verdict") if said["recommend"]]
    assert beyond
    assert "1 automatic promotions in the last hour" in beyond[0]["reasons"][0]
    loop.now += 3601
    loop.teach(examples(200, seed=9))
    assert len(loop.of("promote")) == 2


def test_slices_are_compared_as_labels_come(tmp_path):
    gate = Gate(0.05, minimum=200, minimum_group=10, standard="observed", slice_rows=10)
    loop = Loop(tmp_path, gate=gate)
    loop.teach(examples(60))
    rows = [
        replace(e, data={**e.data, "slice": {"country": "de" if i % 3 else "fr"}})
        for i, e in enumerate(examples(100, seed=2))
    ]
    loop.teach(rows)
    found = loop.releases.trial.slices(10)
    assert list(found) == ["country=de", "country=fr"]
    assert 40 < found["country=de"].rows < 70
    names = [finding["name"] for finding in loop.releases.judgement.report["findings"]]
    assert "slice 'country=de'" in names


def test_an_erasure_withdraws_what_saw_it_and_tells_the_receipts(tmp_path):
    loop, _ = exposed(tmp_path)
    event = Event("erasure", "x", 0.0, {"first": 5})
    loop.teach([event])
    assert loop.of("withdraw")[0]["version"] == 2
    for _ in range(5):
        loop.trainer.catch_up()
        loop.releases.consider()
    learned, retired = loop.of("erased")
    assert (learned["state"], learned["upto"]) == ("learner rebuilt", loop.log.find("x").offset)
    assert learned["facts"]["checkpoint"] == 0
    assert len(learned["facts"]["weights"]) == 64
    assert retired["state"] == "versions retired"
    assert {one["version"] for one in retired["facts"]["retired"]} >= {2}
    assert retired["facts"]["served"] == {"version": 1, "sha256": "sha256 of 1"}
    assert loop.registry.get(2).retired == "erasure"


def test_a_candidate_of_a_learner_that_went_back_is_judged_no_more(loop):
    loop.teach(examples(300))
    of_before = Trial(loop.releases.champion, loop.releases.champion, 10**6)
    loop.releases.trial = of_before
    loop.releases.consider()
    assert loop.releases.trial is not of_before
