from dataclasses import replace

import pytest
import torch
from small_service import CLASSES, Checks, ListLog, examples, make_learner, points, served

from lifelong.bench.job import weights_sha256
from lifelong.core.errors import CheckpointError
from lifelong.core.task import TaskSpec
from lifelong.serve.events import Event
from lifelong.serve.rows import chance_of, key_of
from lifelong.serve.trainer import Plan, Trainer

PLAN = Plan(batch=8, period=60, window=32, anchors=0.2, anchor_rows=20, every=70)


def trainer(folder, log, plan=PLAN):
    return Trainer(folder, log, make_learner, Checks(), plan, classes=range(CLASSES))


def weights(taught):
    return weights_sha256(taught.learner.model)


def learned(folder, events, plan=PLAN):
    taught = trainer(folder, ListLog(events), plan)
    taught.catch_up()
    return taught


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return learned(tmp_path_factory.mktemp("undisturbed"), served(400))


def test_it_takes_the_steps_that_a_loop_over_the_rows_takes(tmp_path):
    events = examples(100)
    plan = replace(PLAN, anchors=0.0, period=40, window=16)
    taught = learned(tmp_path, [*events, Event("tick", "end", 0.0, {})], plan)
    by_hand = make_learner()
    by_hand.begin_task(TaskSpec(0, range(CLASSES)))
    last = trainer(tmp_path / "other", ListLog(), plan)
    for start in range(0, 100, 8):
        for event in events[start : start + 8]:
            x, y = Checks().row(event.data["x"]), event.data["y"]
            last.waiting.add(x, y, start // 40, key_of(event.id))
        batch = last.waiting.batch()
        by_hand.observe(batch)
        last.window.extend(last.waiting)
        last.waiting = last.waiting.rows([])
        if (start + 8) % 40 == 0:
            by_hand.end_task(list(last.window.last(16).batches(8)))
            last.window = last.window.rows([])
            by_hand.begin_task(TaskSpec((start + 8) // 40, range(CLASSES)))
    assert taught.learner.steps == by_hand.steps == 13
    assert weights_sha256(by_hand.model) == weights(taught)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_it_does_not_matter_how_the_log_is_read_or_how_often_it_starts_again(
    tmp_path, undisturbed, limit
):
    log = ListLog(served(400))
    taught = trainer(tmp_path, log)
    read, kills = 0, 5
    while got := taught.step(limit):
        read += got
        if kills and read > 151:
            read, kills = 0, kills - 1
            taught = trainer(tmp_path, log)  # what was learned since the last checkpoint is lost
    assert taught.at == undisturbed.at
    assert weights(taught) == weights(undisturbed)
    assert taught.quarantine.counts() == undisturbed.quarantine.counts()


def test_labels_that_come_later_than_the_reading_change_nothing(tmp_path, undisturbed):
    """A reader that keeps up with the log and one that comes afterwards see the same rows."""
    log = ListLog()
    taught = trainer(tmp_path, log)
    for event in served(400):
        log.append([event])
        taught.step()
    assert weights(taught) == weights(undisturbed)


def test_each_labelled_row_is_learned_once_and_anchors_never(tmp_path, undisturbed):
    ids = [f"p0-{i}" for i in range(400)]
    anchors = {id for id in ids if chance_of(id) < PLAN.anchors}
    refused = {row.id for row in undisturbed.quarantine.rows(limit=1000)}
    waiting = len(undisturbed.waiting)
    assert undisturbed.at.rows + waiting + len(anchors) + len(refused - anchors) == 400
    kept = set(undisturbed.learner.strategies[1].memory.all()["key"].tolist())
    assert kept
    assert kept <= {key_of(id) for id in set(ids) - anchors}
    held = sum(len(undisturbed.anchors.rows(group)[1]) for group in undisturbed.anchors.groups)
    assert held <= len(anchors)
    assert len(undisturbed.anchors.groups) > 2


def test_the_first_label_counts_and_labels_of_nothing_wait(tmp_path):
    x, y = points(1)
    data = {"x": x[0], "version": 1, "output": [], "propensity": None}
    events = [
        Event("label", "l1", 0.0, {"y": y[0]}, about="p"),
        Event("label", "l2", 0.0, {"y": (y[0] + 1) % CLASSES}, about="p"),
        Event("label", "l3", 0.0, {"y": 0}, about="nobody"),
        Event("tick", "t1", 0.0, {}),
        Event("prediction", "p", 0.0, data),
        Event("label", "l4", 0.0, {"y": (y[0] + 2) % CLASSES}, about="p"),
        Event("tick", "t2", 0.0, {}),
    ]
    taught = learned(tmp_path, events, replace(PLAN, anchors=0.0))
    assert (taught.at.rows, taught.learner.steps) == (1, 1)
    assert taught.learner.strategies[1].memory.all()["y"].tolist() == [y[0]]


def test_a_tick_learns_what_waits(tmp_path):
    events = [*examples(3), Event("tick", "t", 0.0, {}), Event("tick", "u", 0.0, {})]
    taught = learned(tmp_path, events, replace(PLAN, anchors=0.0))
    assert (taught.at.rows, taught.learner.steps, len(taught.waiting)) == (3, 1, 0)


def test_a_task_given_with_the_rows_begins_a_period(tmp_path):
    events = [*examples(10, task=5), *examples(10, seed=1, task=6)]
    taught = learned(tmp_path, events, replace(PLAN, anchors=0.0))
    assert [task.id for task in taught.learner.tasks] == [5, 6]
    assert taught.learner.steps == 3  # 8 + 2 of the first, 8 of the second


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"x": [1.0] * 5, "y": 0}, "schema"),
        ({"x": [float("nan")] * 6, "y": 0}, "schema"),
        ({"x": "junk", "y": 0}, "schema"),
        ({"x": [1.0] * 6, "y": 4}, "schema"),
        ({"x": [1.0] * 6, "y": "a"}, "schema"),
        ({"x": [1e30] * 6, "y": 0}, "norm"),
    ],
)
def test_bad_rows_go_to_quarantine_and_the_others_are_learned(tmp_path, data, reason):
    plan = replace(PLAN, anchors=0.0, warmup=100)
    taught = learned(tmp_path, [*examples(200), Event("example", "bad", 0.0, data)], plan)
    taught.log.append([*examples(20, seed=5), Event("tick", "end", 0.0, {})])
    taught.catch_up()
    [row] = taught.quarantine.rows()
    assert (row.reason, row.id, row.offset) == (reason, "bad", 201)
    assert taught.at.rows == 220


def test_a_source_has_a_quota_in_each_period(tmp_path):
    plan = replace(PLAN, anchors=0.0, quota=20, deviations=0.0)
    taught = learned(tmp_path, [*examples(100, source="greedy"), *examples(50, seed=1)], plan)
    assert taught.quarantine.counts() == {"quota": 80}
    assert taught.quarantine.rows()[0].source == "greedy"


def test_a_burst_of_wrong_labels_is_kept_out_at_first(tmp_path):
    plan = replace(PLAN, anchors=0.0, period=0)
    log = ListLog(examples(800))
    taught = trainer(tmp_path, log, plan)
    taught.catch_up()
    wrong = [replace(e, data={**e.data, "y": (e.data["y"] + 1) % CLASSES}) for e in examples(32, 7)]
    log.append(wrong)
    before = taught.at.rows
    taught.catch_up()
    assert taught.quarantine.counts().get("loss", 0) >= 24
    assert taught.at.rows <= before + 8


def test_erasing_leaves_the_weights_of_a_run_that_never_had_the_rows(tmp_path):
    events = served(300)
    log = ListLog(events)
    taught = trainer(tmp_path / "erased", log)
    taught.catch_up()
    seen = weights(taught)
    first = log.erase("s3")
    log.append([Event("erasure", "x", 0.0, {"first": first}), *examples(30, seed=4)])
    taught.catch_up()

    ids = {e.id for e in events if e.subject == "s3"}
    without = [e for e in events if e.id not in ids and e.about not in ids]
    never = learned(tmp_path / "never", [*without, *examples(30, seed=4)])
    assert weights(taught) == weights(never) != seen
    keys = set(taught.learner.strategies[1].memory.all()["key"].tolist())
    assert not keys & {key_of(id) for id in ids}
    again = trainer(tmp_path / "erased", log)
    again.catch_up()
    assert weights(again) == weights(never)


def test_a_rolled_back_range_is_as_if_it_had_never_been(tmp_path):
    good, poison, later = examples(150), examples(60, seed=8), examples(60, seed=9)
    poison = [replace(e, data={**e.data, "y": (e.data["y"] + 1) % CLASSES}) for e in poison]
    log = ListLog([*good, *poison])
    taught = trainer(tmp_path / "poisoned", log)
    taught.catch_up()
    decision = {"action": "rollback", "version": 1, "discard_after": 150}
    log.append([Event("decision", "d", 0.0, decision), *later])
    taught.catch_up()
    never = learned(tmp_path / "never", [*good, *later])
    assert weights(taught) == weights(never)
    counts = taught.quarantine.counts()
    assert counts["range"] == 60
    again = trainer(tmp_path / "poisoned", log)
    again.catch_up()
    assert (weights(again), again.quarantine.counts()) == (weights(never), counts)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, undisturbed):
    log = ListLog(served(400))
    taught = trainer(tmp_path, log)
    taught.catch_up()
    paths = sorted((tmp_path / "checkpoints").glob("*"))
    paths[-1].write_bytes(paths[-1].read_bytes()[:-100])
    again = trainer(tmp_path, log)
    again.catch_up()
    assert weights(again) == weights(undisturbed)
    for path in paths:
        path.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="no earlier one is whole: delete"):
        trainer(tmp_path, log)


def test_what_the_learner_refuses_is_kept_apart(tmp_path):
    taught = trainer(tmp_path, ListLog(examples(8)), replace(PLAN, anchors=0.0))
    with torch.no_grad():
        next(taught.learner.model.parameters()).fill_(torch.nan)
    taught.catch_up()
    assert taught.quarantine.counts() == {"error": 8}
    assert taught.at.rows == 0


@pytest.mark.parametrize("setting", ["batch", "window", "every", "period", "quota"])
def test_senseless_plans_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} is -1; it must be"):
        Plan(**{setting: -1})


def test_whoever_looks_before_it_changes_sees_every_state_of_the_learner(tmp_path):
    """Between two looks at most one step or one new period lies."""
    taught = trainer(tmp_path, ListLog(served(200)))
    seen = []
    taught.before = lambda: seen.append((taught.learner.batches, taught.at.period, weights(taught)))
    taught.catch_up()
    steps = [step for step, _, _ in seen]
    assert sorted(set(steps)) == list(range(taught.learner.batches))
    assert {period for _, period, _ in seen} == set(range(-1, taught.at.period + 1))
    assert len({sha for _, _, sha in seen}) == taught.learner.batches
