"""Decisions in a file that shows when it was tampered with.

Each line is a JSON object: n, time, action, actor, details, previous, hash. `hash` is the SHA-256
of the line without it, `previous` the hash of the line before, so that a line cannot be altered,
removed, inserted or moved without breaking the chain from there on. The oldest lines may be cut
off, by `Audit.cut` alone: an entry says so, with the hash of the last of them, so that the chain
begins with what is known. Cutting lines off the end, or writing the whole chain anew, leaves a
chain that holds: keep `head()` elsewhere and give it to `verify`.

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
import shutil
import threading
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lifelong.core.errors import AuditError
from lifelong.serve.chain import (
    CUT,
    START,
    combined,
    confirmed,
    cut,
    dump,
    hash_of,
    is_torn,
    parse,
    trimmed,
    verify,
)
from lifelong.serve.versions import sync_folder

__all__ = ["START", "Audit", "cut", "pseudonym", "trimmed", "verify"]

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
        self._cut = 0  # entries that are no longer in the file
        self._carried: dict[str, Any] = {}  # what the entry says by which they were cut
        self._ends = array("q", [0])  # where entry n ends, for n from `_cut`
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
                self._check_beginning(file)
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
            after, last = max(after - self._cut, 0), len(self._ends) - 1
            start, end = min(after, last), min(after + limit, last)
            return self._lines(file, start, end)

    def head(self) -> tuple[int, str]:
        """Return the number and the hash of the last entry, to be kept elsewhere."""
        with self._alone():
            return self._number, self._last

    def cut(self, keep: int) -> int:
        """Take the oldest entries out of the file but for the newest `keep`; say how many.

        An entry "cut" is added before: with the hash of the last one that goes, and with what
        others have to know of those that go. Other processes have to open the file again.

        Raises:
            AuditError: the file cannot be written; it is as it was, but for that entry.
            ValueError: `keep` is less than 1.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; give the entries that stay, 1 or more")
        with self._alone() as file:
            upto, before = self._number - keep, self._cut
            if upto <= before:
                return 0
            details = self._told(file, upto)
            self._append(file, CUT, "audit", details)
            self._replace(file, upto)
            self._carried = details
            return upto - before

    @property
    def entries_kept(self) -> int:
        """How many entries the file has."""
        with self._alone():
            return len(self._ends) - 1

    @property
    def _number(self) -> int:
        """Of the last entry."""
        return self._cut + len(self._ends) - 1

    def _told(self, file: int, upto: int) -> dict[str, Any]:
        """Return what stays known of the entries up to one."""
        going, torn = self._lines(file, 0, upto - self._cut), set(self._carried.get("torn", ()))
        trims, receipts = [self._carried.get("trimmed", 0)], self._carried.get("receipts", "")
        for entry in going:
            details = entry["details"]
            if entry["action"] == "trim" and type(details.get("to")) is int:
                trims.append(details["to"])
            elif entry["action"] == "erased":
                receipts = combined(receipts, [(details["erasure"], details["sha256"])])
            elif entry["action"] == _TORN:
                torn.add(str(details.get("file")))
        known = {"upto": upto, "hash": going[-1]["hash"], "time": going[-1]["time"]}
        return {**known, "trimmed": max(trims), "receipts": receipts, "torn": sorted(torn)}

    def _replace(self, file: int, upto: int) -> None:
        """Write what follows an entry into a new file in the place of this one, whole or not."""
        start = self._ends[upto - self._cut]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        new = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            with os.fdopen(os.dup(file), "rb") as lines, os.fdopen(os.dup(new), "wb") as kept:
                lines.seek(start)
                shutil.copyfileobj(lines, kept)
            os.fsync(new)
            fcntl.flock(new, fcntl.LOCK_EX)
            os.replace(temporary, self.path)
        except OSError:
            os.close(new)
            temporary.unlink(missing_ok=True)
            raise
        self._file = new
        os.close(file)
        self._ends = array("q", [end - start for end in self._ends[upto - self._cut :]])
        self._cut = upto
        sync_folder(self.path.parent)

    def _lines(self, file: int, start: int, end: int) -> list[dict[str, Any]]:
        with os.fdopen(os.dup(file), "rb") as lines:
            lines.seek(self._ends[start])
            return [json.loads(line) for line in itertools.islice(lines, end - start)]

    def _check_beginning(self, file: int) -> None:
        """Refuse a chain whose first lines are missing, unless it says that they were cut."""
        if self._cut:
            found = self._lines(file, 0, len(self._ends) - 1)
            known = confirmed(found, self._cut, found[0]["previous"])
            if known is None:
                raise AuditError(
                    f"{self.path} begins with entry {self._cut + 1}, and no entry says that it was "
                    "cut; restore what is missing, or move the file away to begin a new chain"
                )
            self._carried = known
            self._torn |= set(known["torn"])

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
                if self._ends[-1] + len(line) == size and is_torn(line):
                    self._move_aside(file, line)
                    return
                self._accept(self._next(line), len(line))

    def _next(self, line: bytes) -> dict[str, Any]:
        entry, number = parse(line), self._number + 1
        if entry is not None and len(self._ends) == 1 and entry["n"] > 1 and self._last == START:
            number, self._cut, self._last = entry["n"], entry["n"] - 1, entry["previous"]
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
            "n": self._number + 1,
            "time": time.time(),
            "action": action,
            "actor": actor,
        }
        entry |= {"details": dict(details), "previous": self._last}
        entry["hash"] = hash_of(entry)
        line = dump(entry)
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
        name = f"{self.path.name}.torn-{self._number + 1}-{hashlib.sha256(torn).hexdigest()[:16]}"
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
