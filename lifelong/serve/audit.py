"""Decisions in a file that shows when it was tampered with.

Each line is a JSON object: n, time, action, actor, details, previous, hash. `hash` is the SHA-256
of the line without it, `previous` the hash of the line before, so that a line cannot be altered,
removed, inserted or moved without breaking the chain from there on. Cutting lines off the end, or
writing the whole chain anew, leaves a chain that holds: keep `head()` elsewhere and give it to
`verify`.

An audit outlives erasure, so no line may hold personal data. Name a subject by `pseudonym`; once
its salt is destroyed nobody can tell whom the lines are about.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import itertools
import json
import os
import threading
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lifelong.core.errors import AuditError
from lifelong.serve.versions import sync_folder

START = "0" * 64
"""What the first line has for the hash of the line before."""
_FIELDS = ["n", "time", "action", "actor", "details", "previous", "hash"]
_TORN = "torn line"


class Audit:
    """A chain of decisions in a file, each on disk once `append` has returned.

    All methods may be called from any thread, and several processes may append to one file. The
    whole chain is checked when it is opened. A last line that a crash cut off, which was never
    acknowledged, is moved to a file beside it, and an entry "torn line" says so.

    Raises:
        AuditError: the chain is broken, or the file cannot be read or written. It is left as it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Audit(Path(folder) / "audit.jsonl") as audit:
        ...         head = audit.append("promote", "gate", {"version": 2})
        ...         audit.head() == (1, head), audit.entries()[0]["details"]
        ...     verify(Path(folder) / "audit.jsonl")
        (True, {'version': 2})
        []
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._thread = threading.Lock()
        self._ends = array("q", [0])  # where line n ends, for n from 0
        self._last = START
        self._torn: set[str] = set()  # the files of torn lines that entries tell of
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
            self._file: int | None = os.open(self.path, flags, 0o644)
            sync_folder(self.path.parent)
        except OSError as error:
            raise AuditError(f"cannot open {self.path}: {error.strerror or error}") from error
        try:
            with self._alone() as file:
                self._record_torn(file)
        except BaseException:
            self.close()
            raise

    def append(self, action: str, actor: str, details: Mapping[str, Any]) -> str:
        """Add an entry and return its hash, once it is on disk.

        Args:
            action: what was decided: "promote", "rollback", "erase" ...
            actor: who decided: the name of a key or of a part of the service.
            details: plain JSON values; no personal data.

        Raises:
            AuditError: the file cannot be written, or was tampered with; nothing is added then.
            TypeError, ValueError: the details are not plain JSON, or hold NaN.
        """
        with self._alone() as file:
            return self._append(file, action, actor, details)

    def entries(self, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return up to `limit` entries that follow entry `after`, oldest first."""
        if after < 0 or limit < 0:
            raise ValueError(f"entries(after={after}, limit={limit}); give 0 or more")
        with self._alone() as file:
            start, end = (min(n, len(self._ends) - 1) for n in (after, after + limit))
            with os.fdopen(os.dup(file), "rb") as lines:
                lines.seek(self._ends[start])
                return [json.loads(line) for line in itertools.islice(lines, end - start)]

    def head(self) -> tuple[int, str]:
        """Return the number and the hash of the last entry, to be kept elsewhere."""
        with self._alone():
            return len(self._ends) - 1, self._last

    def close(self) -> None:
        """Let go of the file; nothing can be appended then."""
        with self._thread:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the file, after reading what other processes have added."""
        with self._thread:
            if self._file is None:
                raise AuditError(f"{self.path} was closed; open it again")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self._catch_up(self._file)
                yield self._file
            except OSError as error:
                why = error.strerror or error
                raise AuditError(f"{self.path}: {why}; this is not in the audit") from error
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _catch_up(self, file: int) -> None:
        size, end = os.fstat(file).st_size, self._ends[-1]
        if not self.path.exists() or not os.path.samestat(os.fstat(file), self.path.stat()):
            raise AuditError(f"{self.path} was moved or replaced while in use; open it again")
        if size < end:
            raise AuditError(f"{self.path} was cut from {end} to {size} bytes; restore it")
        if size == end:
            return
        with os.fdopen(os.dup(file), "rb") as lines:
            lines.seek(end)
            for line in lines:
                if self._ends[-1] + len(line) == size and _is_torn(line):
                    self._move_aside(file, line)
                    return
                self._accept(self._next(line), len(line))

    def _next(self, line: bytes) -> dict[str, Any]:
        entry, number = _parse(line), len(self._ends)
        if entry is None or (entry["n"], entry["previous"]) != (number, self._last):
            raise AuditError(
                f"line {number} of {self.path} was altered, or does not follow the one before; see "
                "`verify`; move the file away to begin a new chain"
            )
        return entry

    def _accept(self, entry: Mapping[str, Any], length: int) -> None:
        self._ends.append(self._ends[-1] + length)
        self._last = entry["hash"]
        if entry["action"] == _TORN:
            self._torn.add(entry["details"].get("file"))

    def _append(self, file: int, action: str, actor: str, details: Mapping[str, Any]) -> str:
        entry: dict[str, Any] = {
            "n": len(self._ends),
            "time": time.time(),
            "action": action,
            "actor": actor,
        }
        entry |= {"details": dict(details), "previous": self._last}
        entry["hash"] = _hash(entry)
        line = _dump(entry)
        try:
            if os.write(file, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):  # if this fails too, the next one moves it aside
                os.ftruncate(file, self._ends[-1])
            raise
        self._accept(entry, len(line))
        return self._last

    def _move_aside(self, file: int, torn: bytes) -> None:
        name = f"{self.path.name}.torn-{len(self._ends)}-{hashlib.sha256(torn).hexdigest()[:16]}"
        with open(self.path.with_name(name), "wb") as aside:
            aside.write(torn)
            aside.flush()
            os.fsync(aside.fileno())
        sync_folder(self.path.parent)
        os.ftruncate(file, self._ends[-1])
        os.fsync(file)
        self._record_torn(file)

    def _record_torn(self, file: int) -> None:
        """Say of each torn line that it was moved aside, also if a crash came in between."""
        for aside in sorted(self.path.parent.glob(f"{self.path.name}.torn-*")):
            if aside.name not in self._torn:
                data = aside.read_bytes()
                details = {"file": aside.name, "bytes": len(data)}
                details["sha256"] = hashlib.sha256(data).hexdigest()
                self._append(file, _TORN, "audit", details)


def pseudonym(subject: str, salt: bytes) -> str:
    """Return a name for a subject that tells nothing to whoever has not the salt.

    It is the HMAC-SHA256 of the subject: without a secret key, ids could be guessed and tried.

    Args:
        salt: 16 random bytes or more, kept apart from the audit.

    Raises:
        ValueError: the salt is shorter.

    Example:
        >>> pseudonym("ann", b"0123456789abcdef")[:16]
        'subject-fb385915'
    """
    if len(salt) < 16:
        raise ValueError(f"a salt of {len(salt)} bytes; give 16 or more, from os.urandom")
    return f"subject-{hmac.new(salt, subject.encode(), hashlib.sha256).hexdigest()[:32]}"


def verify(path: Path | str, head: tuple[int, str] | None = None) -> list[str]:
    """Return what is wrong with an audit's file, in the order of its lines; [] if nothing is.

    Args:
        path: the file; it is only read, and may be in use.
        head: what `Audit.head` returned once; without it, lines cut off the end are not noticed,
            nor is a chain written anew.

    Raises:
        AuditError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            lines = file.readlines()
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror or error}") from error
    found = [_parse(line) for line in lines]
    numbers = {entry["n"] for entry in found if entry}
    hashes = {0: START}
    problems, number, last = [], 0, START
    for place, (line, entry) in enumerate(zip(lines, found, strict=True), start=1):
        if entry is None:
            torn = place == len(lines) and _is_torn(line)
            how = "was cut off by a crash" if torn else "was altered"
            problems.append(f"line {place} {how}")
            number, last = number + 1, ""
            continue
        if entry["n"] != number + 1:
            problems.append(f"line {place} {_misplaced(entry['n'], number, numbers)}")
        elif last and entry["previous"] != last:
            problems.append(f"line {place} does not follow line {place - 1}: one was replaced")
        number, last = entry["n"], entry["hash"]
        hashes.setdefault(number, last)
    if head is not None and hashes.get(head[0]) != head[1]:
        cut = f"entries {max(hashes) + 1} to {head[0]} were cut off the end"
        anew = f"entry {head[0]} is not the one that was anchored: the chain was written anew"
        problems.append(cut if head[0] > max(hashes) else anew)
    return problems


def trimmed(path: Path | str) -> int:
    """Return the offset up to which the decisions in a file say that the log was trimmed."""
    with open(path, "rb") as file:
        found = [_parse(line) for line in file]
    told = [entry["details"].get("to") for entry in found if entry and entry["action"] == "trim"]
    return max((offset for offset in told if type(offset) is int), default=0)


def _misplaced(n: int, before: int, numbers: set[int]) -> str:
    if n <= before:
        return f"holds entry {n} after entry {before}: it was inserted, or lines were reordered"
    missing = next((i for i in range(before + 1, n) if i not in numbers), None)
    if missing is None:
        return f"holds entry {n} after entry {before}: lines were reordered"
    return f"holds entry {n} after entry {before}: entry {missing} was removed"


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line, or None if it is not, to the byte, what `_dump` wrote."""
    try:
        entry: dict[str, Any] = json.loads(line)
        whole = list(entry) == _FIELDS and type(entry["n"]) is int
        return entry if whole and _hash(entry) == entry["hash"] and _dump(entry) == line else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _is_torn(line: bytes) -> bool:
    # A disk that lost power may have the length of a line without all of its bytes: zeros.
    return not line.endswith(b"\n") or b"\0" in line


def _hash(entry: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(_dump(rest)).hexdigest()


def _dump(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False, separators=(",", ":")).encode() + b"\n"
