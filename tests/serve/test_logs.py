import json
import logging
import re
import subprocess
import sys
import textwrap

import pytest

from lifelong.core.errors import LogError
from lifelong.serve.logs import JsonLines, TextLines

SCRIPT = """
import logging, sys, threading, types, warnings
from pathlib import Path
package = types.ModuleType("lifelong")
package.__path__ = [FOLDER]
sys.modules["lifelong"] = package
from lifelong.serve import logs
logs.configure("api", sys.argv[1], "INFO")
logs.configure("api", sys.argv[1], "WARNING")
logging.getLogger("lifelong.serve.access").info("hidden")
logging.getLogger("lifelong.serve.decisions").info("promote version 2, says ann")
logs.configure("api", sys.argv[1], "INFO")
logging.getLogger("uvicorn.error").warning("careful")
logging.getLogger("lifelong.serve.access").info('{"route": "/predict", "status": 200}')
logging.getLogger("lifelong.serve").warning("odd", extra={"fields": {"rows": 3}})
warnings.warn("old ways")
def fail(): raise ValueError("row [1.25, 2.5] of ann")
thread = threading.Thread(target=fail); thread.start(); thread.join()
try: fail()
except ValueError: logging.getLogger("uvicorn.error").exception("cannot serve")
fail()
"""


def run(style):
    folder = str(logging.__spec__ and __import__("lifelong").__path__[0])
    code = textwrap.dedent(SCRIPT).replace("FOLDER", repr(folder))
    done = subprocess.run(
        [sys.executable, "-c", code, style], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_everything_that_a_process_says_is_a_json_object_a_line():
    decided, *lines = [json.loads(line) for line in run("json").splitlines()]
    assert decided["what"] == "promote version 2, says ann"
    assert {line["process"] for line in lines} == {"api"}
    assert all({"time", "level", "what"} <= line.keys() for line in lines)
    assert [line["level"] for line in lines] == [
        "warning", "info", "warning", "warning", "error", "error", "critical",
    ]  # fmt: skip
    assert lines[0]["what"] == "careful"
    assert (lines[1]["route"], lines[1]["status"]) == ("/predict", 200)
    assert lines[2]["rows"] == 3
    assert "old ways" in lines[3]["what"]
    for line in lines[4:]:
        assert line["error"] == "ValueError"
        assert line["at"]
        assert "why" not in line


@pytest.mark.parametrize("style", ["json", "text"])
def test_what_an_error_quotes_is_not_told(style):
    said = run(style)
    assert "ValueError" in said
    numbers = re.sub(r"\d\d:\d\d:\d\d[.,]\d+", "", said)  # but for the time
    assert "2.5" not in numbers
    assert "1.25" not in numbers
    assert "of ann" not in said


@pytest.mark.parametrize("lines", [JsonLines("api"), TextLines("api")])
def test_the_librarys_own_errors_are_told_in_full(lines):
    try:
        raise LogError("the disk is full")
    except LogError:
        found = sys.exc_info()
    record = logging.LogRecord("a", logging.ERROR, "", 1, "cannot write", (), found)
    assert "the disk is full" in lines.format(record)
    assert "\n{" not in lines.format(record)


def test_a_message_that_only_looks_like_json_stays_a_message():
    record = logging.LogRecord("a", logging.ERROR, "", 1, "{damaged", (), None)
    line = json.loads(JsonLines("api").format(record))
    assert line["what"] in ("{damaged", "a")
    assert line["level"] == "error"
