import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from recorded import Recorded, files, stream
from small_service import examples

from lifelong.bench import recipes
from lifelong.core.errors import ConfigError, LogError, StateMismatch
from lifelong.serve import replayed
from lifelong.serve.backtest import backtest
from lifelong.serve.choice import Choice
from lifelong.serve.events import Event
from lifelong.serve.noting import Stretch
from lifelong.serve.past import turns
from lifelong.serve.rebuild import replay
from lifelong.serve.replayed import Replayed
from lifelong.serve.weights import digest_of, weights_of

OWN = Choice("as-configured")


def choice(name, **settings):
    return Choice(name, partial(recipes.make, name, settings), settings=settings)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Recorded(tmp_path_factory.mktemp("service"), stream(200)) as made:
        made.good = made.version()
        made.add(examples(40, seed=8))
        made.roll_back(made.good)
        made.erase("s3")
        made.add([*stream(100, seed=3), *examples(10, seed=9), Event("tick", "end", 0.0, {})])
        yield made


@pytest.fixture(scope="module")
def found(service, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    before = files(service.state)
    found = backtest(service.config, [OWN, choice("fine-tune"), choice("ewc+replay")], out)
    assert files(service.state) == before
    assert json.loads((out / "backtest.json").read_text()) == found
    assert not (out / "jobs").exists()  # no row of the log stays behind
    return found


def result(found, name):
    return next(one for one in found["results"] if one["strategy"] == name)


def test_the_services_own_strategies_come_to_the_services_own_learner(service, found):
    own = result(found, "as-configured")
    learner = service.trainer.learner
    assert own["weights_sha256"] == digest_of(weights_of(learner))
    assert own["steps"] == learner.steps
    assert own["learned"] == service.trainer.at.rows
    assert own["quarantine"] == service.trainer.quarantine.counts()
    assert len({one["weights_sha256"] for one in found["results"]}) == 3


def test_all_answer_the_same_rows_once(service, found):
    """Every labelled row that is neither erased nor discarded, at the place of its features."""
    log = service.log
    labelled = [
        event
        for event in log.read(0, 10_000)
        if event.kind == "prediction" and log.label_of(event.id) is not None
    ]
    kept = 10  # examples; 40 others were discarded
    assert {one["rows"] for one in found["results"]} == {len(labelled) + kept}
    assert {one["predictions"] for one in found["results"]} == {len(labelled)}
    right = [np.argmax(e.data["output"]) == log.label_of(e.id).data["y"] for e in labelled]
    assert found["served"]["accuracy"] == pytest.approx(np.mean(right))
    assert found["erased"] == log.erased(1, log.last) > 0


def test_numbers_fit_together(found):
    for one in found["results"]:
        assert one["on_predictions"] - one["served"] == pytest.approx(one["difference"])
        parts = [part for part in one["over_time"] if part["rows"]]
        weighted = sum(part["rows"] * part["accuracy"] for part in parts)
        assert weighted / one["rows"] == pytest.approx(one["accuracy"])
        assert one["accuracy"] > 0.4  # of four classes, from the first row on
        assert len(one["anchors"]) > 2
        assert [len(row) for row in one["anchors"]] == sorted(len(row) for row in one["anchors"])
        assert one["seconds"] > 0
    assert result(found, "fine-tune")["memory_bytes"] == 0
    assert result(found, "ewc+replay")["memory_bytes"] > 0


def test_a_row_is_answered_by_the_learner_before_it(service, tmp_path):
    """By hand: the learner as of the event before each prediction answers it."""
    job = _job(service, tmp_path / "job", last=service.good.last_offset)
    job.run()
    right = list(job.answers.right[1])
    log = service.log
    for place in (5, 60, 120, len(right) - 1):
        event = log.read(job.offsets[place] - 1, 1)[0]
        learner = replay(service.config, log, event.offset - 1, turns(log))
        x = np.array([event.data["x"]], np.float32)
        label = int(learner.predict(torch.from_numpy(x)).argmax())
        assert right[place] == (label == log.label_of(event.id).data["y"])


def test_what_was_interrupted_goes_on_and_comes_to_the_same(service, found, tmp_path, monkeypatch):
    monkeypatch.setattr(replayed, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(replayed, "_CHUNK", 37)

    class Stop(Exception):
        pass

    def stop(name, share):
        if share > stop.at:
            raise Stop

    for stop.at in (0.2, 0.5, 0.8):
        with pytest.raises(Stop):
            backtest(service.config, [OWN], tmp_path, tell=stop)
        assert (tmp_path / "jobs/as-configured/checkpoint.safetensors").exists()
    again = backtest(service.config, [OWN], tmp_path)["results"][0]
    own = dict(result(found, "as-configured"))
    for one in (again, own):
        for changing in ("seconds", "rows_per_second"):
            one.pop(changing)
    assert again == own


def test_what_was_begun_with_other_settings_is_not_gone_on_with(service, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(name, share):
        raise Stop

    monkeypatch.setattr(replayed, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(replayed, "_CHUNK", 100)
    weak, strong = choice("ewc", ewc={"strength": 1.0}), choice("ewc", ewc={"strength": 9.0})
    monkeypatch.setattr(Replayed, "_measure", lambda *_: None)

    def late(name, share):
        if share > 0.5:
            raise Stop

    with pytest.raises(Stop):
        backtest(service.config, [weak], tmp_path, tell=late)
    with pytest.raises(StateMismatch, match=r"other settings \(settings .* choose another --out"):
        backtest(service.config, [strong], tmp_path)


def _job(service, folder, first=1, last=None, sync=1):
    last = service.log.last if last is None else last
    stretch = Stretch(first, last, sync, service.log.erased(1, last))
    return Replayed(Choice("one"), service.config, service.state, stretch, folder)


def test_a_part_of_the_stream_is_measured_after_learning_what_came_before(service, tmp_path):
    whole = _job(service, tmp_path / "whole")
    whole.run()
    half = service.good.last_offset // 2
    part = _job(service, tmp_path / "part", first=half)
    part.run()
    kept = [place for place, offset in enumerate(whole.offsets) if offset >= half]
    assert part.offsets == [whole.offsets[place] for place in kept]
    assert list(part.answers.right[1]) == [whole.answers.right[1][place] for place in kept]


def test_what_is_synced_later_answers_with_older_weights(service, tmp_path):
    fresh, stale, never = (
        _job(service, tmp_path / str(sync), sync=sync, last=service.good.last_offset)
        for sync in (1, 10, 0)
    )
    results = {job.stretch.sync: job.run() for job in (fresh, stale, never)}
    assert len({one["weights_sha256"] for one in results.values()}) == 1  # learning is the same
    accuracy = {sync: one["accuracy"] for sync, one in results.items()}
    assert accuracy[1] > accuracy[10] > accuracy[0]


def test_other_settings_of_the_trainer_are_tried(service, found, tmp_path):
    plan = replace(service.config.train, batch=32)
    wide = Choice("wide", settings={"train": {"batch": 32}}, plan=plan)
    fast = Choice("fast", settings={"lr": 0.3}, lr=0.3)
    results = backtest(service.config, [wide, fast], tmp_path)["results"]
    own = result(found, "as-configured")
    assert results[0]["steps"] < own["steps"]
    assert results[0]["rows"] == own["rows"]
    assert results[1]["steps"] == own["steps"]
    assert results[1]["weights_sha256"] != own["weights_sha256"]


def test_several_processes_come_to_the_same(service, found, tmp_path):
    told = []
    several = backtest(
        service.config, [OWN, choice("fine-tune")], tmp_path, workers=2,
        tell=lambda name, share: told.append(name),
    )  # fmt: skip
    for one in several["results"]:
        assert one["weights_sha256"] == result(found, one["strategy"])["weights_sha256"]
        assert one["accuracy"] == result(found, one["strategy"])["accuracy"]
    assert set(told) == {"as-configured", "fine-tune"}


def test_what_cannot_be_replayed_is_refused(service, tmp_path):
    with Recorded(tmp_path) as empty, pytest.raises(LogError, match="is empty"):
        backtest(empty.config, [OWN], tmp_path / "out")
    with pytest.raises(ConfigError, match="is not the folder of a service"):
        backtest(service.config, [OWN], tmp_path / "out", folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="from 5 to 4"):
        backtest(service.config, [OWN], tmp_path / "out", first=5, last=4)
    with pytest.raises(ValueError, match="each once"):
        backtest(service.config, [OWN, OWN], tmp_path / "out")
    gone = next(n for n in range(1, service.log.last) if service.log.erased(n, n))
    with pytest.raises(LogError, match=f"all events from {gone} to {gone} have been erased"):
        backtest(service.config, [OWN], tmp_path / "out", first=gone, last=gone)
    tick = service.log.last
    with pytest.raises(LogError, match="no labelled row"):
        backtest(service.config, [OWN], tmp_path / "out", first=tick)


def test_an_erasure_meanwhile_stops_it_and_leaves_nothing_behind(tmp_path):
    with Recorded(tmp_path, stream(100)) as service:

        def erase(name, share):
            if service.log.first_of("s2") is not None:
                service.erase("s2")

        with pytest.raises(LogError, match="erased from the log meanwhile; start it again"):
            backtest(service.config, [OWN], tmp_path / "out", tell=erase)
        assert not (tmp_path / "out/jobs/as-configured").exists()
        assert backtest(service.config, [OWN], tmp_path / "out")["erased"] > 0


def test_a_trimmed_log_is_replayed_from_its_beginning(tmp_path):
    with Recorded(tmp_path, stream(60)) as service:
        begin = service.log.last
        service.add([*examples(40, seed=9), Event("tick", "end", 0.0, {})])
        service.log.trim(begin + 1)
        [one] = backtest(service.config, [OWN], tmp_path / "out")["results"]
        assert one["rows"] == 40
        with pytest.raises(LogError, match=f"all events from 1 to {begin} have been erased or tri"):
            backtest(service.config, [OWN], tmp_path / "out", last=begin)
