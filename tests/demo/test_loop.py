"""The demo in small, with its real processes, and what it does where something is wrong."""

import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lifelong import cli
from lifelong.commands import bench
from lifelong.demo import digits, endless, loop
from lifelong.demo.chapters import Scale
from lifelong.demo.service import DemoFailed, Service, check_unused
from lifelong.demo.story import Story
from lifelong.demo.watch import Watch
from lifelong.serve.log import SQLiteLog
from lifelong.serve.outside import free_port


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(500)  # seven processes import torch and MLflow, one after the other
def test_the_loop_holds_what_it_claims_and_leaves_nothing_running(tmp_path, capsys, monkeypatch):
    pids = []
    stop = Service.stop

    def remember(self):
        pids.append(self.status()["pid"])
        stop(self)

    monkeypatch.setattr(Service, "stop", remember)
    failed = loop.show_loop(tmp_path, Scale(pairs=((0, 1), (2, 3)), least=100, poison=60))
    told = capsys.readouterr().out
    assert failed == [], told
    for words in [
        "every class was learned",
        "requests failed",
        "served before: version",
        "served after:  version",
        "what is served lost no more than 10 points",
        "what kept it: ",
        "rows since then stay out",
        "until it had caught up again, 0 failed",
        "are the same, bit for bit",
        "lifelong audit: 0 problems",
        "next: `lifelong demo --part serve`",
    ]:
        assert words in told
    assert not re.search(r"task \d", told)
    assert "trainer has ended (signal SIGKILL)" in (tmp_path / "service.log").read_text()
    assert pids
    assert not any(alive(pid) for pid in pids)


def test_a_claim_that_fails_is_said_and_counts(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(loop, "show_loop", lambda folder: ["poison was let through"])
    assert cli.main(["demo", "--part", "loop", "--out", str(tmp_path)]) == 1
    assert "the demo failed: poison was let through" in capsys.readouterr().err


def test_a_service_that_cannot_start_is_a_failed_claim(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(digits, "MODEL", "def learner():\n    return 3\n")
    failed = loop.show_loop(tmp_path)
    assert len(failed) == 1
    assert "returns int; it must return a lifelong.Learner" in failed[0]
    assert "FAILED" in capsys.readouterr().out


def test_without_the_extra_the_core_runs_and_it_is_said(monkeypatch, capsys):
    parts = ("lifelong.demo", "lifelong.serve.outside")
    for name in [name for name in sys.modules if name.startswith(parts)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.setattr(bench, "_run", lambda options: 0)
    assert cli.main(["demo"]) == 0
    said = capsys.readouterr().err
    assert "the loop of the service is left out: httpx is not installed" in said
    assert "lifelong[serve]" in said
    assert cli.main(["demo", "--part", "loop"]) == 1


def test_a_second_demo_in_a_folder_is_refused(tmp_path):
    check_unused(tmp_path)
    (tmp_path / "state" / "log").mkdir(parents=True)
    with (
        SQLiteLog(tmp_path / "state" / "log", write=True),
        pytest.raises(DemoFailed, match="another demo running"),
    ):
        check_unused(tmp_path)
    check_unused(tmp_path)


def test_the_next_free_port_is_found():
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(taken) > taken
    assert free_port() > 0


def test_digits_to_measure_with_are_never_sent():
    rows = digits.Digits(seed=1)
    held = {tuple(row) for row in rows.tests(range(10), 400)[0]}
    assert not any(tuple(rows.draw(range(10))[0]) in held for _ in range(500))


def test_a_promotion_comes_with_all_that_the_gate_said(tmp_path):
    """Its own reason is cut short; the verdict's before it is not."""
    details = {"version": 2, "verdict": "promote", "reasons": ["kept", "ahead"]}
    entries = [
        {"action": "verdict", "details": details},
        {"action": "promote", "details": {"version": 2, "reason": "kept; ah"}},
        {"action": "rollback", "details": {"version": 1, "reason": "worse"}},
    ]
    lines = "".join(f"{json.dumps(entry)}\n" for entry in entries)
    (tmp_path / "audit.jsonl").write_text(lines)
    watch = Watch(SimpleNamespace(state=tmp_path))
    reasons = [entry["details"]["reason"] for entry in watch.decisions()]
    assert reasons == ["kept; ahead", "worse"]
    assert watch.decisions() == []


def test_what_takes_time_is_said_where_no_terminal_shows_it(capsys):
    with Story().waiting("starting"):
        assert capsys.readouterr().out == "  starting\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_endless_service_runs_until_it_is_stopped(tmp_path, monkeypatch, capsys):
    def interrupt(seconds: float) -> None:
        if (Path(tmp_path) / "state" / "log").exists() and seconds == 0.5:
            raise KeyboardInterrupt
        wait(seconds)

    wait = time.sleep
    monkeypatch.setattr(endless.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        endless.serve_digits(tmp_path)
    assert "/console" in capsys.readouterr().out
    check_unused(tmp_path)
