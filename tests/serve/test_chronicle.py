from dataclasses import replace

import pytest
import torch
from small_service import CLASSES, Checks, ListLog, examples, make_learner, served

from lifelong.bench.job import weights_sha256
from lifelong.serve.chronicle import POINTS, RECENT, TIMES, VERSIONS, Chronicle, ends
from lifelong.serve.events import Event
from lifelong.serve.progress import Progress
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Plan, Trainer

PLAN = Plan(batch=8, period=100, anchors=0.2, every=50)


class Watched:
    """A trainer and its chronicle, whose clock goes on by two seconds at each look."""

    def __init__(self, folder, log=None, before=None, plan=PLAN):
        self.log = log or ListLog()
        self.trainer = Trainer(
            folder, self.log, make_learner, Checks(), plan, classes=range(CLASSES)
        )
        self.now = 0.0
        self.chronicle = Chronicle(self.trainer, before, lambda: 1000 + self.now, lambda: self.now)

    def teach(self, events, champion=None):
        self.log.append(events)
        while self.trainer.step(20):
            self.look(champion)

    def look(self, champion=None):
        self.now += 2.0
        self.chronicle.look(champion)


def timed(events):
    return [replace(event, time=float(i)) for i, event in enumerate(events)]


def snapshot(trainer, version=1):
    return Snapshot(version, trainer.learner.model)


def right_on(trainer, group):
    x, y, task = trainer.anchors.rows(group)
    return round(float((trainer.learner.predict(x, task).argmax(1) == y).double().mean()), 4)


def test_watching_changes_nothing_that_is_learned(tmp_path):
    alone = Trainer(tmp_path / "a", ListLog(served(300)), make_learner, Checks(), PLAN,
                    classes=range(CLASSES))  # fmt: skip
    alone.catch_up()
    watched = Watched(tmp_path / "b")
    watched.teach(served(300), snapshot(alone))
    assert watched.chronicle.points
    assert watched.chronicle.matrix
    assert weights_sha256(watched.trainer.learner.model) == weights_sha256(alone.learner.model)
    assert torch.equal(watched.trainer.anchors.rows(0)[0], alone.anchors.rows(0)[0])


def test_a_period_that_ends_adds_a_row_of_the_matrix(tmp_path):
    watched = Watched(tmp_path)
    measured = []
    note = watched.trainer.closing

    def closing():
        measured.append({g: right_on(watched.trainer, g) for g in watched.trainer.anchors.groups})
        note()

    watched.trainer.closing = closing
    watched.teach(examples(450))
    matrix = watched.chronicle.matrix
    assert [(row.period, row.group) for row in matrix] == [(0, 0), (1, 1), (2, 2)]
    assert [row.accuracy for row in matrix] == measured
    assert [len(row.accuracy) for row in matrix] == [1, 2, 3]


def test_rows_that_come_with_a_task_are_under_that_task(tmp_path):
    watched = Watched(tmp_path)
    watched.teach([*examples(60, seed=1, task=7), *examples(60, seed=2, task=5)])
    watched.teach(examples(60, seed=3, task=7))
    assert [(row.period, row.group) for row in watched.chronicle.matrix] == [(0, 7), (1, 5)]


def test_forgetting_counts_from_the_best_since_a_period_was_open(tmp_path):
    watched = Watched(tmp_path)
    watched.teach(examples(50), snapshot(watched.trainer))
    assert watched.chronicle.points[-1].forgetting == {0: 0.0}  # it is open
    watched.teach(examples(150, seed=1))
    good = snapshot(watched.trainer, 2)
    watched.look(good)
    best = watched.chronicle.points[-1].accuracy[0]
    assert best > 0.5
    bad = Snapshot(3, make_learner().model)
    watched.look(bad)
    point = watched.chronicle.points[-1]
    assert point.version == 3
    assert point.forgetting[0] == pytest.approx(best - point.accuracy[0], abs=1e-4)
    assert point.forgetting[0] > 0
    assert watched.chronicle.best[0] == best


def test_the_champion_is_measured_when_there_is_something_new_and_in_little_time(tmp_path):
    watched = Watched(tmp_path)
    champion = snapshot(watched.trainer)
    watched.teach(examples(60), champion)
    count = len(watched.chronicle.points)
    for _ in range(5):
        watched.look(champion)
    assert len(watched.chronicle.points) == count  # nothing has changed

    class Slow:
        version = 2

        def predict(self, x, task):
            watched.now += 3.0
            return champion.predict(x, task)

    watched.look(Slow())
    asked = watched.now
    while len(watched.chronicle.points) == count + 1:
        watched.look(champion)
    assert watched.now - asked >= 3.0 / 0.02 - 5


def test_accuracy_before_learning_is_of_the_latest_rows(tmp_path):
    watched = Watched(tmp_path, plan=replace(PLAN, period=130))
    watched.teach(examples(80))
    trainer = watched.trainer
    assert watched.chronicle.recent == tuple(trainer.at.correct)
    watched.teach(examples(2000, seed=1))
    right, rows = watched.chronicle.recent
    assert RECENT <= rows <= RECENT + 20 + PLAN.batch
    assert 0 < right <= rows


def test_a_label_is_counted_in_the_first_version_that_has_learned_it(tmp_path):
    watched = Watched(tmp_path, plan=replace(PLAN, period=0, anchors=0.0))
    watched.teach(timed(examples(20)))  # two steps of eight; four rows wait
    watched.chronicle.made(2)
    watched.teach([Event("tick", "t", 0.0, {})])
    watched.chronicle.made(3)
    watched.chronicle.made(4)  # nothing new is in it
    two, three = watched.chronicle.versions
    assert (two.version, two.first, two.rows, two.times) == (
        2,
        1,
        16,
        [float(i) for i in range(16)],
    )
    assert (three.version, three.first, three.rows, three.times[0]) == (3, 17, 4, 16.0)


def test_a_row_that_is_learned_again_is_not_counted_again(tmp_path):
    plan = replace(PLAN, period=0, anchors=0.0)
    watched = Watched(tmp_path, plan=plan)
    watched.teach(timed(examples(80)))
    watched.chronicle.made(2)
    told = watched.chronicle.status()
    before = Progress(0.0, 1, 80, learned=told["learned"], seen=told["seen"])
    # The process dies; another one goes on from the last checkpoint, before the end.
    again = Watched(tmp_path, watched.log, before, plan)
    assert again.trainer.at.offset < 80
    again.teach([])
    again.chronicle.made(3)
    assert [one.version for one in again.chronicle.versions] == [2]


def test_going_back_forgets_what_was_measured_of_a_learner_that_is_no_more(tmp_path):
    watched = Watched(tmp_path)
    watched.teach(timed(examples(400)))
    watched.chronicle.made(2)
    matrix = list(watched.chronicle.matrix)
    assert len(matrix) >= 2
    data = {"action": "rollback", "discard_after": matrix[0].offset + 1}
    watched.teach([Event("decision", "d", 0.0, data)])
    assert watched.chronicle.matrix[0] == matrix[0]
    assert all(row.accuracy for row in watched.chronicle.matrix)
    assert len(watched.chronicle.matrix) == 1
    assert watched.chronicle.recent[1] <= watched.trainer.at.rows
    kept = watched.chronicle.status()["learned"]
    assert [one.version for one in kept] == [2]  # its first row was not discarded


def test_everything_is_bounded(tmp_path):
    watched = Watched(tmp_path, plan=replace(PLAN, period=8, anchors=0.5))
    champion = snapshot(watched.trainer)
    for seed in range(POINTS + 40):
        watched.teach(timed(examples(4, seed=seed)), champion)
        watched.chronicle.made(seed + 2)
    status = watched.chronicle.status()
    assert len(status["points"]) <= POINTS
    assert len(status["learned"]) <= VERSIONS
    assert len(status["matrix"]) <= 24
    assert len(status["anchors"]) == 24
    assert all(len(point.accuracy) <= 24 for point in status["points"])
    assert all(len(one.times) <= TIMES for one in status["learned"])
    times = [point.time for point in status["points"]]
    assert times == sorted(times)
    assert ends(list(range(30))) == [*range(8), *range(14, 30)]


def test_a_model_that_cannot_be_measured_does_not_end_learning(tmp_path, caplog):
    class Broken:
        version = 2

        def predict(self, x, task):
            raise RuntimeError("no")

    watched = Watched(tmp_path)
    watched.teach(examples(200), Broken())
    assert watched.trainer.at.rows > 100
    assert watched.chronicle.points == []
    assert "cannot measure on anchors: RuntimeError: no" in caplog.text
