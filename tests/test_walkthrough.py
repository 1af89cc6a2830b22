"""The walk-through does what it says, with the files and the commands that are on its page."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lifelong.serve.outside import free_port

PAGE = (Path(__file__).parents[1] / "docs" / "walkthrough.md").read_text("utf-8")
FILE = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = dict(FILE.findall(PAGE))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_model_and_schema_take_less_than_thirty_lines():
    assert FILES.keys() == {"pump.py", "pump.yaml", "send.py"}
    lines = sum(len(FILES[name].splitlines()) for name in ("pump.py", "pump.yaml"))
    assert f"Two files of {lines} lines in all" in PAGE
    assert lines < 30


@pytest.mark.timeout(900)  # six processes import torch, and the page's readings are sent
def test_the_page_from_start_to_end(tmp_path):
    port = free_port()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("8000", str(port)))
    with (tmp_path / "pump.yaml").open("a") as config:
        config.write(f"serve: {{port: {port}}}\n")
    said = tmp_path / "said.txt"
    with said.open("w") as out:
        service = subprocess.Popen(
            [sys.executable, "-m", "lifelong", "serve", "pump.yaml"], cwd=tmp_path, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
    try:
        while "serving" not in said.read_text():
            assert service.poll() is None, said.read_text()
            time.sleep(0.1)
        for _ in range(6):  # the trainer may start long after the api, where cores are few
            sent = run(tmp_path, "send.py")
            assert sent.returncode == 0, sent.stderr
            lines = re.findall(r"(\d+) of 100 right, the last by version (\d+)", sent.stdout)
            assert len(lines) == 6
            if int(lines[-1][1]) > 1 and int(lines[-1][0]) >= 80:
                break
        assert int(lines[-1][0]) >= 80
        assert int(lines[-1][1]) > 1
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/versions") as answer:
            assert json.load(answer)["champion"] == int(lines[-1][1])
        again = run(tmp_path, "-m", "lifelong", "serve", "pump.yaml")
        assert "it is taken" in again.stderr
        assert again.returncode == 2
    finally:
        service.send_signal(signal.SIGINT)
        assert service.wait(60) == 0
    start, serving, *promoted, stopped = said.read_text().splitlines()
    assert start == "starting pump.yaml"
    assert serving == f"serving pump.yaml on http://127.0.0.1:{port}"
    assert promoted
    assert all(json.loads(line)["action"] == "promote" for line in promoted)
    assert stopped.startswith("stopped; ")
    audit = run(tmp_path, "-m", "lifelong", "audit", "pump")
    assert audit.returncode == 0
    assert audit.stdout.startswith("0 problems in the log, the decisions and")
    changed = FILES["pump.py"].replace("32", "16")
    (tmp_path / "pump.py").write_text(changed)
    other = run(tmp_path, "-m", "lifelong", "serve", "pump.yaml")
    assert "is not of this model" in other.stderr
    assert len(other.stderr.splitlines()) == 1
    assert other.returncode == 2
