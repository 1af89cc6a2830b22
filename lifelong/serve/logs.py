"""What the service's processes say: one JSON object a line on stderr, or text for people.

Lines have `time` (UTC), `level`, `process`, `what`, and fields of their own. They hold no features
and no subjects: of an exception that is not the library's own, the message is left out, as it may
quote what was received; its type and where it was raised are there.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from lifelong.core.errors import LifelongError

Style = Literal["json", "text"]
_OWN = (LifelongError, OSError)


class JsonLines(logging.Formatter):
    """Each record as one JSON object.

    A message that is itself a JSON object gives its fields. `extra={"fields": {...}}` adds some.

    Args:
        process: which of the service's processes this is.

    Example:
        >>> record = logging.LogRecord("a", logging.WARNING, "", 1, "%s is late", ("b",), None)
        >>> line = JsonLines("api").format(record)
        >>> {name: json.loads(line)[name] for name in ("level", "process", "what")}
        {'level': 'warning', 'process': 'api', 'what': 'b is late'}
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": when,
            "level": record.levelname.lower(),
            "process": self.process,
            "what": record.getMessage(),
            "logger": record.name,
        }
        if line["what"].startswith("{"):
            line |= _fields(line["what"]) or {}
            line["time"] = when
        if line["what"].startswith("{"):
            line["what"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= told(record.exc_info[1])
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Each record as a line of text, and the error below it.

    Args:
        process: which of the service's processes this is.
    """

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process}: %(message)s")

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | Any
    ) -> str:
        """Return the error without what it may quote."""
        error = told(ei[1])
        return "\n".join([*error["at"], f"{error['error']}: {error.get('why', '')}".rstrip(": ")])


def told(error: BaseException) -> dict[str, Any]:
    """Return an exception's type and places, and its message where that quotes nothing received.

    Example:
        >>> told(ValueError("row [1.5, 2.5] is bad"))
        {'error': 'ValueError', 'at': []}
    """
    frames = traceback.extract_tb(error.__traceback__)
    found = {"error": type(error).__name__, "at": [f"{f.filename}:{f.lineno}" for f in frames]}
    return found | ({"why": str(error)} if isinstance(error, _OWN) else {})


def configure(process: str, style: Style = "json", level: str = "WARNING") -> None:
    """Send everything that this process says to stderr, uncaught errors and warnings included.

    Args:
        process: its name in each line.
        style: "json" or "text".
        level: the least level that is shown; requests are at INFO, and decisions about what is
            served, which are shown in any case.
    """
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines(process) if style == "json" else TextLines(process))
    logging.basicConfig(level=level, handlers=[lines], force=True)
    logging.captureWarnings(True)
    log = logging.getLogger("lifelong.serve")
    if logging.getLogger().level > logging.INFO:  # what is served from now on is always told
        logging.getLogger("lifelong.serve.decisions").setLevel(logging.INFO)

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("the process ends with an error", exc_info=(kind, error, trace))

    def in_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None:
            trace = (found.exc_type, found.exc_value, found.exc_traceback)
            log.error("a thread has ended with an error", exc_info=trace)

    sys.excepthook = uncaught
    threading.excepthook = in_thread


def _fields(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
