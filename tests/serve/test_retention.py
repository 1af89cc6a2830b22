import dataclasses
from types import SimpleNamespace

import pytest
from small_service import CLASSES, Checks, examples, make_learner, served

from lifelong.bench.job import weights_sha256
from lifelong.core.errors import ConfigError
from lifelong.serve.audit import Audit, trimmed, verify
from lifelong.serve.events import Event
from lifelong.serve.history import History
from lifelong.serve.log import SQLiteLog
from lifelong.serve.records import key_of
from lifelong.serve.retention import Floor, Keep, Retention, read_floor
from lifelong.serve.trainer import Plan, Trainer

PLAN = Plan(batch=8, period=120, window=40, anchor_rows=20, warmup=30, every=40)


class Bench:
    """A log, a trainer and both sides of retention, in one process."""

    def __init__(self, folder, keep="150 events", **settings):
        self.folder, self.keep = folder, keep
        self.log = SQLiteLog(folder / "log", write=True)
        self.audit = Audit(folder / "audit.jsonl")
        self.targets = []
        self.start()
        self.retention = Retention(self.log, folder / "trainer", self.audit, keep, **settings)

    def start(self):
        self.trainer = Trainer(
            self.folder / "trainer", self.log, make_learner, Checks(), PLAN, classes=range(CLASSES)
        )
        self.floor = Floor(
            self.folder / "trainer", self.log, self.trainer.history, self.trainer.quarantine,
            Keep.of(self.keep),
        )  # fmt: skip

    def learn(self):
        while True:
            self.floor.follow()
            if not self.trainer.step(50):
                break
            self.floor.tell(self.targets)
        self.floor.tell(self.targets)
        self.floor.follow()

    def trim(self, steps=30):
        for _ in range(steps):
            self.retention.step()

    def feed(self, events):
        """Let all go on at once, a little at a time."""
        for start in range(0, len(events), 60):
            self.log.append(events[start : start + 60])
            self.learn()
            self.trim(3)

    def digest(self):
        return weights_sha256(self.trainer.learner.model)

    def stored(self):
        return self.log._store.writer.execute("SELECT count(*) FROM events").get


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def undisturbed(folder, events):
    with SQLiteLog(folder / "log", write=True) as log:
        log.append(events)
        trainer = Trainer(
            folder / "trainer", log, make_learner, Checks(), PLAN, classes=range(CLASSES)
        )
        trainer.catch_up()
        return weights_sha256(trainer.learner.model)


def test_trimming_changes_nothing_of_what_is_learned(bench, tmp_path):
    events = served(450)
    bench.feed(events)
    assert bench.log.trimmed > 500
    assert bench.stored() < 350 < len(events) / 2
    assert min(bench.trainer.history.offsets) == bench.log.trimmed
    assert bench.digest() == undisturbed(tmp_path / "other", events)
    # From its oldest checkpoint, the learner comes to the same weights.
    for offset in bench.trainer.history.offsets[1:]:
        (tmp_path / "trainer" / "checkpoints" / f"{offset:012d}.safetensors").unlink()
    before = bench.digest()
    bench.start()
    assert bench.trainer.at.offset == bench.log.trimmed
    bench.learn()
    assert bench.digest() == before
    assert bench.log.verify() == []
    assert verify(tmp_path / "audit.jsonl") == []
    assert trimmed(tmp_path / "audit.jsonl") == bench.log.trimmed


def test_nothing_is_trimmed_before_it_is_learned_nor_while_the_trainer_is_dead(bench):
    bench.log.append(examples(400))
    bench.trim()
    assert bench.log.trimmed == 0
    bench.learn()
    bench.trim()
    assert 0 < (begin := bench.log.trimmed) <= 250
    bench.log.append(examples(400, seed=1))
    bench.trim()
    assert bench.log.trimmed == begin
    (bench.folder / "trainer" / "floor.json").write_text("{dam")
    bench.trim()
    assert bench.log.trimmed == begin
    assert read_floor(bench.folder / "trainer") == (0, 0)


def test_versions_to_go_back_to_hold_the_log_back_for_as_much_again(bench):
    bench.targets = [60]
    bench.log.append(examples(290))
    bench.learn()
    bench.trim()
    assert 0 < bench.log.trimmed <= 60
    bench.log.append(examples(400, seed=1))
    bench.learn()
    bench.trim()
    assert 300 <= bench.log.trimmed <= 690 - 2 * 150


@pytest.mark.parametrize(("targets", "most"), [([], 4 / 3), ([3], 2 * 4 / 3)])
def test_at_most_a_third_more_stays_than_is_asked_for(tmp_path, targets, most):
    log = SimpleNamespace(trimmed=0, last=0)
    history = History(tmp_path)
    floor = Floor(
        tmp_path, log, history, SimpleNamespace(drop=lambda _: None), Keep.of("90 events")
    )
    for offset in range(2, 900, 2):
        log.last = offset
        history.save(offset, {"n": offset})
        floor.tell(targets)
        log.trimmed = read_floor(tmp_path)[0]
        floor.follow()
        assert min(offset, 90) <= offset - log.trimmed <= most * 90 + 2


def test_an_erasure_waits_for_no_trimming_and_stays_exact(bench, tmp_path):
    events = examples(300)
    of_ann = range(240, 245)
    for i in of_ann:
        events[i] = dataclasses.replace(events[i], subject="ann")
    bench.feed(events)
    begin = bench.log.trimmed
    assert 0 < begin < 240
    assert bench.log.traces_of("ann").none
    first = bench.log.first_of("ann")
    bench.log.append([Event("erasure", "x", 0.0, {"first": first}, subject="ann")])
    bench.log.erase("ann")
    bench.trim()
    assert bench.log.trimmed == begin  # not passed by a checkpoint yet
    bench.learn()
    rest = [event for i, event in enumerate(events) if i not in of_ann]
    more = examples(100, seed=3)
    bench.feed(more)
    assert bench.digest() == undisturbed(tmp_path / "other", rest + more)


def test_erasing_what_was_trimmed_takes_its_rows_out_of_everything(bench):
    events = [dataclasses.replace(event, subject="ann") for event in examples(60)]
    keys = {key_of(event.id) for event in events}
    bench.feed(events + examples(400, seed=1))
    assert bench.log.trimmed > 60
    trainer = bench.trainer
    assert keys & kept_keys(trainer)
    anchors = [row for group in trainer.anchors.groups for row in trainer.anchors._groups[group]]
    assert keys & {key_of(row[1]) for row in anchors}
    traces = bench.log.traces_of("ann")
    assert set(traces.rows) == keys
    data = {"first": traces.first, "forget": traces.rows}
    bench.log.append([Event("erasure", "x", 0.0, data, subject="ann")])
    bench.log.erase("ann")
    bench.learn()
    assert trainer.at.offset == bench.log.last
    assert bench.trainer.history.owed["first"] == traces.first
    for offset in trainer.history.offsets:
        trainer.load_state_dict(trainer.history.latest(offset))
        assert not keys & kept_keys(trainer)
        for group in trainer.anchors.groups:
            assert not keys & {key_of(row[1]) for row in trainer.anchors._groups[group]}


def kept_keys(trainer):
    return set(trainer.learner.strategies[1].memory.all()["key"].tolist())


def test_going_back_further_than_the_log_begins_goes_to_its_beginning(bench):
    bench.feed(examples(400))
    begin = bench.log.trimmed
    bench.log.append([Event("decision", "d", 0.0, {"action": "rollback", "discard_after": 5})])
    bench.learn()
    assert bench.trainer.at.offset == bench.log.last
    assert bench.trainer.history.offsets[0] == begin
    assert bench.trainer.quarantine.counts()["range"] > 100


def test_a_trimming_that_was_interrupted_is_finished_by_the_next_process(bench):
    bench.log.append(examples(400))
    bench.learn()
    floor, passed = read_floor(bench.folder / "trainer")
    bench.log.mark(floor, passed)
    assert bench.stored() == 400
    Retention(bench.log, bench.folder / "trainer", bench.audit, "all").step()
    bench.trim()
    assert bench.stored() == 400 - floor


def test_something_being_decided_holds_trimming(tmp_path):
    held = [True]
    bench = Bench(tmp_path, held=lambda: held[0])
    bench.log.append(examples(400))
    bench.learn()
    bench.trim()
    assert bench.log.trimmed == 0
    held[0] = False
    bench.trim()
    assert bench.log.trimmed > 0


def test_the_file_is_rewritten_when_it_is_due(tmp_path):
    now = [1e10]
    bench = Bench(tmp_path, compact=100.0, remember=0, clock=lambda: now[0])
    secret = Event("example", "secret-id", 0.0, {"x": [0.5] * 6, "y": 1})
    bench.log.append([secret, *examples(400)])
    bench.learn()
    bench.trim()
    assert bench.log.rewritten is None
    files = list((tmp_path / "log").iterdir())
    assert not any(b"secret-id" in file.read_bytes() for file in files)
    assert bench.log.forget_ids(0) is False


def test_keeping_by_age_and_by_size(tmp_path):
    with SQLiteLog(tmp_path, write=True) as log:
        events = [Event("tick", f"t-{i}", 1000.0 + i, {}) for i in range(1000)]
        log.append(events)
        day = 86_400
        assert Keep.of("1 days").upto(log, 1000 + 400 + day) == 400
        assert Keep.of("1 days").upto(log, 0) == 0
        assert Keep.of("1 days").upto(log, 1e9) == 1000
        assert Keep.of("300 events").upto(log, 0) == 700
        assert Keep.of("5000 events").upto(log, 0) == 0
        assert Keep.of("all").upto(log, 1e9) == 0
        half = dataclasses.replace(Keep.of("1 MB"), amount=log.size / 2)
        assert half.upto(log, 0) == pytest.approx(500, abs=2)
        log.trim(801)
        assert Keep.of("300 events").upto(log, 0) == 800


@pytest.mark.parametrize("text", ["", "30", "days", "-1 days", "0 events", "3 weeks", "1e9 GB"])
def test_a_setting_that_says_nothing_is_refused(text):
    with pytest.raises(ConfigError, match="30 days"):
        Keep.of(text)


def test_the_log_of_a_folder_stays_as_small_however_long_it_runs(bench):
    sizes = []
    for seed in range(5):
        bench.feed(examples(200, seed=seed))
        while bench.log.give_back(64):
            pass
        bench.log.forget_ids(150)
        sizes.append(bench.stored())
        assert len(bench.trainer.history.offsets) < 9
    assert max(sizes) < 350
    gone = bench.log._store.writer.execute("SELECT count(*) FROM gone").get
    assert gone <= 400


def test_the_more_waits_to_be_removed_the_less_it_rests(tmp_path, monkeypatch):
    rests = []
    for trimmed_to in (0, 5_000, 95_000):
        log = SimpleNamespace(trimmed=trimmed_to, sweep=lambda after, limit: (after, 0))
        retention = Retention(log, tmp_path, None, "100 events")
        ticks = iter((1.0, 2.0))  # a step of one second
        monkeypatch.setattr("time.perf_counter", lambda ticks=ticks: next(ticks))
        rests.append(retention.step())
        monkeypatch.undo()
    assert rests == [4.0, 2.0, 0.2]
