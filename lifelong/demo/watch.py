"""What a service decided, seen from outside: promotions, rollbacks and refusals."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lifelong.demo.service import Service


class Watch:
    """Look at what the trainer says of itself ten times a second, and remember the refusals.

    Args:
        service: that runs.
    """

    def __init__(self, service: Service) -> None:
        self.refused: dict[int, list[str]] = {}
        """The gate's reasons, by the candidate's version."""
        self._service = service
        self._seen = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(10)

    def decisions(self) -> list[dict[str, Any]]:
        """Return the promotions and rollbacks that came since this was asked last.

        Each has `details["reason"]`; a promotion's is all that the gate said, not its beginning.
        """
        entries = entries_of(self._service.state / "audit.jsonl")
        new, self._seen = entries[self._seen :], len(entries)
        said = {
            entry["details"]["version"]: "; ".join(entry["details"]["reasons"])
            for entry in entries
            if entry["action"] == "verdict" and entry["details"]["verdict"] == "promote"
        }
        for entry in new:
            if entry["action"] == "promote":
                details = entry["details"]
                details["reason"] = said.get(details["version"], details["reason"])
        return [entry for entry in new if entry["action"] in ("promote", "rollback")]

    def _run(self) -> None:
        candidate = None
        while not self._stopping.wait(0.1):
            status = self._service.status()
            candidate = status.get("candidate") or candidate
            if status.get("verdict") == "refuse" and candidate is not None:
                self.refused[candidate] = list(status["reasons"])


def entries_of(audit: Path) -> list[dict[str, Any]]:
    """Return the entries of an audit's file; of a line that is being written, nothing."""
    try:
        lines = audit.read_text("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
