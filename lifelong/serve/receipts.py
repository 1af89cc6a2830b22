"""Receipts of erasures: what was removed, what was learned again, and the proof in the audit."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lifelong.core.errors import AuditError
from lifelong.serve import chain
from lifelong.serve.audit import Audit, pseudonym
from lifelong.serve.folded import Folded
from lifelong.serve.versions import sync_folder, write_json

State = Literal["accepted", "log removed", "learner rebuilt", "versions retired", "done"]
_SALT = "salt"
_FOLDED = "folded.jsonl"


class Receipts:
    """One file for each erasure, which says how far it has come; old ones share a file.

    A receipt goes through accepted, log removed, learner rebuilt, versions retired and done, each
    with its time. It names the subject by a salted hash, so nobody can tell from it whom it is
    about unless he has both the salt, in `erasures/salt`, and a guess. When it is done its SHA-256
    goes into the audit, so neither can be altered later without the other telling.

    Args:
        folder: for the files.
        audit: gets an entry for each step that is claimed.
        keep: receipts that are done and have a file of their own; up to a tenth more are left.

    Raises:
        AuditError: the folder cannot be written, or the salt is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     receipts = Receipts(Path(folder) / "erasures", Audit(Path(folder) / "audit.jsonl"))
        ...     receipts.accepted(7, "ann", [2, 3, 5])
        ...     receipts.removed(7, 3, until=9, who="key")
        ...     receipts.get(7)["state"], receipts.get(7)["events"]
        ('log removed', {'offsets': [[2, 3], [5, 5]], 'removed': 3})
    """

    def __init__(self, folder: Path, audit: Audit, keep: int = 1000) -> None:
        self.folder = folder
        self.audit = audit
        self.keep = keep
        self.folded = Folded(folder / _FOLDED)
        self._one = threading.Lock()
        try:
            folder.mkdir(exist_ok=True)
            self._salt = _salt_of(folder / _SALT)
        except OSError as error:
            raise AuditError(f"cannot use {folder}: {error.strerror or error}") from error

    def name(self, subject: str) -> str:
        """Return the salted hash that stands for a subject."""
        return pseudonym(subject, self._salt)

    def trimmed(self, subject: str) -> int:
        """Count the rows of a subject whose trace earlier erasures had to leave in the weights.

        It stays there: a later erasure, which finds no more of these rows, is not exact either.
        """
        named, found = self.name(subject), 0
        own = (_read(path) or {} for path in self.folder.glob("*.json"))
        for receipt in (*self.folded, *own):
            if receipt.get("subject") == named:
                found = max(found, int(receipt.get("trimmed", 0)))
        return found

    def accepted(
        self,
        erasure: int,
        subject: str,
        offsets: Iterable[int],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a receipt, or add to one that a crash left behind.

        Args:
            erasure: the offset of the erasure's event, which is the receipt's name.
            subject: whose events are to be removed.
            offsets: of these events.
            facts: whether it is exact, and what is known of rows that were trimmed.
        """
        with self._one:
            receipt = self.get(erasure) or {
                "erasure": erasure,
                "subject": self.name(subject),
                "state": "accepted",
                "times": {"accepted": time.time()},
                "events": {"offsets": [], "removed": 0},
                **(facts or {}),
            }
            known = {
                n for first, last in receipt["events"]["offsets"] for n in range(first, last + 1)
            }
            receipt["events"]["offsets"] = _ranges(known | set(offsets))
            self._write(receipt)

    def removed(self, erasure: int, events: int, *, until: int, who: str) -> None:
        """Say that the log has no more of it.

        Args:
            erasure: the receipt.
            events: how many were removed.
            until: the offset that a learner has to be past to have forgotten.
            who: asked for it.
        """
        with self._one:
            receipt = self.get(erasure)
            if receipt is None or receipt["state"] not in ("accepted", "log removed"):
                return
            receipt["events"]["removed"] += events
            receipt["until"] = until
            self._reach(receipt, "log removed")
            details = {"erasure": erasure, "subject": receipt["subject"], **receipt["events"]}
            self.audit.append("erase", who, details)
            self._write(receipt)

    def learned(self, upto: int, facts: Mapping[str, Any]) -> list[int]:
        """Say that the learner has learned again up to an offset, without what was erased before.

        Returns:
            The receipts that it is about.
        """
        return self._advance(upto, "learner rebuilt", {"learner": dict(facts)})

    def retired(self, upto: int, facts: Mapping[str, Any]) -> list[int]:
        """Say that no version is left that had learned from what was erased: these are done."""
        return self._advance(upto, "versions retired", {"versions": dict(facts)})

    def get(self, erasure: int) -> dict[str, Any] | None:
        """Return a receipt; None if there is none of this erasure.

        Raises:
            AuditError: it is damaged.
        """
        found = _read(self._path(erasure))
        if found is None:
            found = next((one for one in self.folded if one["erasure"] == erasure), None)
        return found

    def _advance(self, upto: int, state: State, facts: dict[str, Any]) -> list[int]:
        moved, done = [], []
        with self._one:
            for path in sorted(self.folder.glob("*.json")):
                receipt = _read(path)
                if receipt is None:
                    continue
                if receipt["state"] == "done":
                    done.append((path, receipt))
                    continue
                if receipt.get("until") is None or receipt["until"] > upto:
                    continue
                receipt.update(facts)
                self._reach(receipt, state)
                if state == "versions retired":
                    self._finish(receipt)
                self._write(receipt)
                moved.append(receipt["erasure"])
            if len(done) > self.keep + self.keep // 10:
                self._fold(done[: len(done) - self.keep])
        return moved

    def _fold(self, done: Sequence[tuple[Path, dict[str, Any]]]) -> None:
        """Write receipts into the file of the old ones, and then delete theirs."""
        self.folded.add([receipt for _, receipt in done])
        for path, _ in done:
            path.unlink()
        sync_folder(self.folder)

    def _finish(self, receipt: dict[str, Any]) -> None:
        self._reach(receipt, "done")
        receipt["sha256"] = digest_of(receipt)
        details = {"erasure": receipt["erasure"], "sha256": receipt["sha256"]}
        receipt["audit"] = self.audit.append("erased", "trainer", details)

    def _reach(self, receipt: dict[str, Any], state: State) -> None:
        receipt["state"] = state
        receipt["times"].setdefault(state, time.time())

    def _path(self, erasure: int) -> Path:
        return self.folder / f"{erasure:012d}.json"

    def _write(self, receipt: Mapping[str, Any]) -> None:
        write_json(self._path(receipt["erasure"]), receipt)


def verify(folder: Path, audit: Path) -> list[str]:
    """Return what is wrong with the receipts in a folder, in words; [] if nothing is.

    Those that are done are compared with the audit, whose own chain is not checked here.

    Raises:
        AuditError: a file cannot be read.
    """
    try:
        told = [e["details"] for e in chain.entries_of(audit) if e["action"] == "erased"]
        hashes = {details["erasure"]: details["sha256"] for details in told}
        before = chain.cut(audit)
    except (OSError, KeyError, TypeError) as error:
        raise AuditError(f"cannot read {audit}: {error}; see `audit.verify`") from error
    found, older = [], {}
    for place, erasure, receipt in _every(folder):
        known = hashes.pop(erasure, None)
        if receipt["state"] != "done":
            continue
        if digest_of(receipt) != receipt.get("sha256"):
            found.append(f"{place} was altered")
        elif known is None and before is not None:
            older[erasure] = receipt["sha256"]
        elif known != receipt["sha256"]:
            found.append(f"{place} is not the receipt that the audit has")
    found += [f"the receipt of erasure {erasure} in {folder} is missing" for erasure in hashes]
    # Of entries that were cut the audit has one hash of all.
    known = "" if before is None else before["receipts"]
    if not found and chain.combined(known, ()) != chain.combined("", older.items()):
        told_of = "the receipts of erasures whose entries in the audit were cut"
        found.append(f"{told_of} are not those that it had: one is missing, or was altered")
    return found


def digest_of(receipt: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a receipt, without itself and its place in the audit."""
    rest = {name: value for name, value in receipt.items() if name not in ("sha256", "audit")}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _every(folder: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield each receipt once, with its place and the erasure that it is to be of."""
    own = {int(path.stem): path for path in folder.glob("*.json")}
    for line, receipt in enumerate(folded := Folded(folder / _FOLDED), start=1):
        if receipt["erasure"] not in own:  # a crash left both
            yield f"line {line} of {folded.path}", receipt["erasure"], receipt
    for erasure, path in sorted(own.items()):
        if (found := _read(path)) is not None:
            yield str(path), erasure, found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AuditError(f"cannot read {path}: {error}; restore a backup") from error
    return found


def _ranges(offsets: Iterable[int]) -> list[list[int]]:
    """Write offsets as ranges, first and last of each.

    >>> _ranges([5, 2, 3])
    [[2, 3], [5, 5]]
    """
    ranges: list[list[int]] = []
    for offset in sorted(offsets):
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return ranges


def _salt_of(path: Path) -> bytes:
    """Read the salt, or make one: whole or not at all."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, os.urandom(32))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    salt = path.read_bytes()
    if len(salt) != 32:
        raise AuditError(f"{path} is damaged: {len(salt)} bytes, not 32; restore a backup")
    return salt
