"""Old receipts of erasures, one a line, in one file that is replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lifelong.core.errors import AuditError
from lifelong.serve.versions import sync_folder


class Folded:
    """Receipts that are done, without a file for each of them.

    Args:
        path: of the file; it need not be there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     folded = Folded(Path(folder) / "folded.jsonl")
        ...     folded.add([{"erasure": 7}, {"erasure": 9}])
        ...     folded.add([{"erasure": 9}])
        ...     list(folded)
        [{'erasure': 7}, {'erasure': 9}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the receipts, oldest first.

        Raises:
            AuditError: a line is none, or the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for line in file:
                    receipt: dict[str, Any] = json.loads(line)
                    _ = receipt["erasure"], receipt.get("subject")
                    yield receipt
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AuditError(f"cannot read {self.path}: {error!r}; restore a backup") from error

    def add(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Add receipts, those that are there already once; the file changes whole or not at all.

        Raises:
            AuditError: the file cannot be read or written.
        """
        every = {receipt["erasure"]: receipt for receipt in (*self, *receipts)}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                for _, receipt in sorted(every.items()):
                    file.write(json.dumps(receipt, separators=(",", ":"), allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise AuditError(f"cannot write {self.path}: {error.strerror or error}") from error
