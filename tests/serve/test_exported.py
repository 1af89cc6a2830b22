import json
import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lifelong.serve.events import Event
from lifelong.serve.exported import LogStatus, TrainerStatus
from lifelong.serve.log import SQLiteLog

STATUS = {
    "time": 1000.0,
    "pid": 1,
    "offset": 90,
    "behind": 10,
    "rows": 70,
    "steps": 9,
    "period": 2,
    "accuracy_before_learning": 0.75,
    "anchors": {"0": 5, "1": 7},
    "anchor_accuracy": {"champion": 0.5, "candidate": 0.625},
    "checkpoint": {"offset": 80, "time": 990.0},
    "quarantine": {"loss": 3, "norm": 1, "new kind": 2, "other kind": 1},
    "candidate": 4,
    "verdict": "undecided",
    "reasons": [],
}


def shown(folder, now=1010.0):
    registry = CollectorRegistry()
    registry.register(TrainerStatus(folder, lambda: now))
    text = generate_latest(registry).decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_everything_the_trainer_says_is_a_metric(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    found = shown(tmp_path)
    assert found == {
        "lifelong_trainer_up": 1,
        "lifelong_trainer_status_age_seconds": 10,
        "lifelong_trainer_offset": 90,
        "lifelong_trainer_behind_events": 10,
        "lifelong_trainer_rows": 70,
        "lifelong_trainer_steps": 9,
        "lifelong_trainer_period": 2,
        "lifelong_accuracy_before_learning": 0.75,
        "lifelong_candidate_version": 4,
        "lifelong_checkpoint_age_seconds": 20,
        "lifelong_checkpoint_offset": 80,
        "lifelong_anchor_rows": 12,
        'lifelong_anchor_accuracy{arm="champion"}': 0.5,
        'lifelong_anchor_accuracy{arm="candidate"}': 0.625,
        **{
            f'lifelong_quarantine_rows{{reason="{reason}"}}': rows
            for reason, rows in {
                "schema": 0, "quota": 0, "norm": 1, "loss": 3, "range": 0, "error": 0, "other": 3,
            }.items()
        },
        **{
            f'lifelong_candidate_state{{state="{state}"}}': float(state == "undecided")
            for state in ("none", "undecided", "promote", "refuse")
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [None, "", "{dam", "[]", "{}", '{"time": "now"}', '{"time": null, "anchors": 3}', "\x00\xff"],
)
def test_a_status_that_is_missing_or_damaged_means_down(tmp_path, text):
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    found = shown(tmp_path)
    assert found["lifelong_trainer_up"] == 0
    assert not any(math.isnan(value) for value in found.values())


def test_a_trainer_that_says_nothing_any_more_is_down(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    assert shown(tmp_path, 1059.0)["lifelong_trainer_up"] == 1
    assert shown(tmp_path, 1061.0)["lifelong_trainer_up"] == 0


def test_the_number_of_series_does_not_grow(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    before = len(shown(tmp_path))
    more = {f"reason {i}": 1 for i in range(100)}
    status = STATUS | {"quarantine": more, "anchors": more, "anchor_accuracy": more}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert len(shown(tmp_path)) <= before


def test_the_log_says_where_it_begins_and_ends(tmp_path):
    registry = CollectorRegistry()
    with SQLiteLog(tmp_path, write=True) as log:
        registry.register(LogStatus(log))
        log.append([Event("tick", f"t-{i}", 0.0, {}) for i in range(10)])
        log.trim(5)
        text = generate_latest(registry).decode()
        assert "lifelong_log_offset 10.0" in text
        assert "lifelong_log_trimmed_offset 4.0" in text
        assert f"lifelong_log_bytes {float(log.size)}" in text
    assert "lifelong_log_offset " not in generate_latest(registry).decode().replace("# ", "#")
