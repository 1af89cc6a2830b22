"""The decision that is being carried out: on disk before it changes anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifelong.core.errors import RegistryError
from lifelong.serve.events import Event
from lifelong.serve.versions import sync_folder, write_json

FILE = "deciding.json"


class Intent:
    """Say what is about to be done, so that a process that dies meanwhile leaves no half of it.

    A decision names the version that it comes to before anything moves: going back "to the one
    before" a second time would go back further. The file is there from then until the decision is
    in the log; who finds it does the same again, which is harmless, and logs it.

    Args:
        folder: of the service.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     intent = Intent(Path(folder))
        ...     facts = {"action": "rollback", "version": 2, "reason": "worse", "by": "ann"}
        ...     intent.begin({"id": "decision:d", "time": 1.0, **facts})
        ...     found = Intent(Path(folder)).pending()
        ...     intent.end()
        ...     found["version"], intent.pending()
        (2, None)
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def begin(self, decision: Mapping[str, Any]) -> None:
        """Write a decision down; it is on disk when this returns."""
        write_json(self._path, dict(decision))

    def end(self) -> None:
        """Say that it is in the log, or that nothing of it was done; harmless when called again."""
        try:
            self._path.unlink(missing_ok=True)
            sync_folder(self._path.parent)
        except OSError as error:
            raise RegistryError(f"cannot delete {self._path}: {error.strerror}") from error

    def pending(self) -> dict[str, Any] | None:
        """Return the decision that was begun and not ended; None if there is none.

        Raises:
            RegistryError: the file is damaged.
        """
        try:
            found = json.loads(self._path.read_bytes())
            needed = {"id", "time", "action", "version", "reason", "by"}
            if not isinstance(found, dict) or not needed <= found.keys():
                raise ValueError(f"it has no {sorted(needed)}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RegistryError(
                f"cannot read {self._path}: {error}; see audit.jsonl for what was decided last, "
                "and delete the file"
            ) from error
        return found


def event_of(decision: Mapping[str, Any]) -> Event:
    """Return the event by which a decision is in the log.

    Example:
        >>> facts = {"action": "promote", "version": 2, "reason": "better", "by": "ann"}
        >>> event_of({"id": "decision:d", "time": 1.0, **facts}).source
        'ann'
    """
    facts = {name: value for name, value in decision.items() if name not in ("id", "time")}
    return Event("decision", decision["id"], decision["time"], facts, source=decision["by"])
