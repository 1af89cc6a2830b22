"""How far a log was acknowledged, beside the log: a tail that is lost would not be missed else."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

_SIZE = 16


class Tail:
    """The highest offset that was acknowledged, in a file of 16 bytes.

    SQLite's write-ahead log ends, for whoever opens it after a crash, at its first damaged frame:
    commits behind it vanish without a word, and their offsets would be given again. This number is
    written after each commit and not synced, so it costs microseconds; after a loss of power it may
    be lower than the log's last offset, but never higher unless events are missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tail = Tail(Path(folder) / "tail")
        ...     tail.read(), tail.write(7), Tail(Path(folder) / "tail").read(), tail.close()
        (0, None, 7, None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._written = 0

    def read(self) -> int:
        """Return the offset; 0 if there is none, or it is not whole."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return 0
        offset, check = content[:8], content[8:]
        return int.from_bytes(offset, "little") if check == _check(offset) else 0

    def write(self, offset: int) -> None:
        """Keep an offset, if it is above the last one; a disk that fails leaves the one before."""
        if offset <= self._written:
            return
        number = offset.to_bytes(8, "little")
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(self._file, number + _check(number), 0)
            self._written = offset

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _check(number: bytes) -> bytes:
    return hashlib.blake2b(number, digest_size=_SIZE - len(number)).digest()
