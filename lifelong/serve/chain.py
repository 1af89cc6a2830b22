"""The lines of an audit, each with the hash of the one before, and whether they hold."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifelong.core.errors import AuditError

START = "0" * 64
"""What the first line has for the hash of the line before."""
CUT = "cut"
"""The action of an entry that says which lines before it were removed."""
_FIELDS = ["n", "time", "action", "actor", "details", "previous", "hash"]


def verify(path: Path | str, head: tuple[int, str] | None = None) -> list[str]:
    """Return what is wrong with an audit's file, in the order of its lines; [] if nothing is.

    Lines may be missing from the beginning where an entry "cut" says so, with the hash of the last
    of them.

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
    found = [parse(line) for line in lines]
    numbers = {entry["n"] for entry in found if entry}
    problems, (number, last) = [], _beginning(found)
    begin, hashes = number, {number: last}
    for place, (line, entry) in enumerate(zip(lines, found, strict=True), start=1):
        if entry is None:
            torn = place == len(lines) and is_torn(line)
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
        if head[0] < begin:
            anew = f"entry {head[0]} was cut, so it cannot be compared; keep a head from {begin} on"
        problems.append(cut if head[0] > max(hashes) else anew)
    return problems


def trimmed(path: Path | str) -> int:
    """Return the offset up to which the decisions in a file say that the log was trimmed."""
    found = entries_of(path)
    told = [entry["details"].get("to") for entry in found if entry["action"] == "trim"]
    told += [entry["details"].get("trimmed") for entry in found if entry["action"] == CUT]
    return max((offset for offset in told if type(offset) is int), default=0)


def cut(path: Path | str) -> dict[str, Any] | None:
    """Return what is said of the entries that were cut off the beginning; None if none were.

    Returns:
        {"upto": number of the last, "hash": of it, "time": of it, "trimmed": as `trimmed`,
        "receipts": `combined` of those of erasures, "torn": names of files}.
    """
    found = entries_of(path)
    return confirmed(found, found[0]["n"] - 1, found[0]["previous"]) if found else None


def confirmed(entries: Iterable[Mapping[str, Any]], upto: int, last: str) -> dict[str, Any] | None:
    """Return the details of the entry which says that the chain was cut after entry `upto`."""
    for entry in entries:
        details: dict[str, Any] = entry["details"]
        if entry["action"] == CUT and (details["upto"], details["hash"]) == (upto, last):
            return details
    return None


def combined(before: str, receipts: Iterable[tuple[int, str]]) -> str:
    """Add receipts to a hash of many, whose order does not matter: (erasure, SHA-256) of each.

    Example:
        >>> one = combined("", [(7, "aa"), (9, "bb")])
        >>> one == combined(combined("", [(9, "bb")]), [(7, "aa")]), len(one)
        (True, 64)
    """
    total = int(before or "0", 16)
    for erasure, digest in receipts:
        total += int(hashlib.sha256(f"{erasure} {digest}".encode()).hexdigest(), 16)
    return f"{total % 2**256:064x}"


def entries_of(path: Path | str) -> list[dict[str, Any]]:
    """Return the entries of a file that are whole, whether or not they follow each other."""
    with open(path, "rb") as file:
        return [entry for entry in map(parse, file) if entry]


def _beginning(found: Sequence[dict[str, Any] | None]) -> tuple[int, str]:
    """Return number and hash of the entry before the first, if an entry says that it was cut."""
    first = found[0] if found else None
    if first is not None and first["n"] > 1:
        before = (first["n"] - 1, first["previous"])
        if confirmed(filter(None, found), *before):
            return before
    return 0, START


def _misplaced(n: int, before: int, numbers: set[int]) -> str:
    if n <= before:
        return f"holds entry {n} after entry {before}: it was inserted, or lines were reordered"
    missing = next((i for i in range(before + 1, n) if i not in numbers), None)
    if missing is None:
        return f"holds entry {n} after entry {before}: lines were reordered"
    return f"holds entry {n} after entry {before}: entry {missing} was removed"


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line, or None if it is not, to the byte, what `_dump` wrote."""
    try:
        entry: dict[str, Any] = json.loads(line)
        whole = list(entry) == _FIELDS and type(entry["n"]) is int
        return entry if whole and hash_of(entry) == entry["hash"] and dump(entry) == line else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def is_torn(line: bytes) -> bool:
    """Tell whether a line was cut off by a crash."""
    # A disk that lost power may have the length of a line without all of its bytes: zeros.
    return not line.endswith(b"\n") or b"\0" in line


def hash_of(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an entry without its own."""
    rest = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(dump(rest)).hexdigest()


def dump(entry: Mapping[str, Any]) -> bytes:
    """Return the line of an entry."""
    return json.dumps(entry, allow_nan=False, separators=(",", ":")).encode() + b"\n"
