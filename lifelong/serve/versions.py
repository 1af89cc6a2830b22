"""One version of a model, and the folder that holds its files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lifelong.core import checkpoint
from lifelong.core.errors import CheckpointError, RegistryError
from lifelong.core.strategy import State

WEIGHTS = "weights.safetensors"
LEARNER = "learner.safetensors"
RECORD = "version.json"
RECORD_TAG = "lifelong.record"
PRUNED_TAG = "lifelong.pruned"
RETIRED_TAG = "lifelong.retired"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_MOST_NOTE = 5000
_LASTING = ("id", "parent", "first_offset", "last_offset", "metrics", "time", "note", "hashes")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model: where it came from and where its files are.

    Attributes:
        number: from 1 on, in the order of registration.
        id: the name under which it was registered; registering it again changes nothing.
        parent: the version that it was learned from.
        first_offset: the first event of the log that it learned from and its parent had not.
        last_offset: the last event of the log that it has seen.
        metrics: what was measured before it was registered.
        time: of registration, in seconds since 1970 (UTC).
        note: what a person should know.
        hashes: the SHA-256 of each file, by name.
        folder: where the files are.
        pruned: names of files that were deleted to save room.
        retired: why it may never be served again; its files are deleted.
    """

    number: int
    id: str
    parent: int | None
    first_offset: int
    last_offset: int
    metrics: dict[str, float]
    time: float
    note: str
    hashes: dict[str, str]
    folder: Path
    pruned: tuple[str, ...] = ()
    retired: str | None = None

    @property
    def servable(self) -> bool:
        """Whether an alias may point at it, if its files are whole."""
        return self.retired is None and WEIGHTS not in self.pruned

    @property
    def gone(self) -> tuple[str, ...]:
        """The names of the files that were deleted on purpose."""
        return self.pruned if self.retired is None else tuple(self.hashes)

    def record(self) -> dict[str, Any]:
        """Return what never changes, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name in _LASTING}

    def tags(self) -> dict[str, str]:
        """Return all that MLflow is to know of it, as `from_tags` reads it."""
        tags = {RECORD_TAG: json.dumps(self.record(), sort_keys=True)}
        if self.pruned:
            tags[PRUNED_TAG] = json.dumps(self.pruned)
        if self.retired is not None:
            tags[RETIRED_TAG] = self.retired
        return tags


def from_tags(number: int, tags: Mapping[str, str], folder: Path) -> Version:
    """Return the version that MLflow's tags describe.

    Raises:
        RegistryError: the tags are not of this library, or were altered.
    """
    try:
        record = json.loads(tags[RECORD_TAG])
        pruned = tuple(json.loads(tags.get(PRUNED_TAG, "[]")))
        return _made(number, record, folder, pruned, tags.get(RETIRED_TAG))
    except (KeyError, ValueError, TypeError) as error:
        raise RegistryError(
            f"version {number} has no readable tag {RECORD_TAG!r} in MLflow; it was registered by "
            "something else, or altered"
        ) from error


def from_folder(folder: Path) -> Version:
    """Return the version that the version.json in a folder describes.

    Raises:
        RegistryError: there is none, or it is damaged.
    """
    path = folder / RECORD
    try:
        parts = json.loads(path.read_bytes())
        version = _made(parts["number"], parts, folder, tuple(parts["pruned"]), parts["retired"])
    except OSError as error:
        raise RegistryError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise RegistryError(f"{path} is damaged: {error!r}") from error
    if str(version.number) != folder.name:
        raise RegistryError(f"{path} is of version {version.number}, not {folder.name}")
    return version


def check_new(parent: int | None, first: int, last: int, note: str, id: str) -> None:
    """Raise ValueError unless a version with these facts can be registered."""
    if not _ID.fullmatch(id):
        raise ValueError(f"the id {id!r}; use up to 200 letters, digits, '.', '_', ':' and '-'")
    if not 0 <= first <= last + 1:
        raise ValueError(f"offsets {first} to {last}; give 0 <= first <= last + 1")
    if parent is not None and parent < 1:
        raise ValueError(f"parent {parent}; versions count from 1, the first has parent None")
    if len(note) > _MOST_NOTE:
        raise ValueError(f"a note of {len(note)} characters; MLflow takes {_MOST_NOTE}")


def settled(version: Version) -> Version:
    """Return a version as MLflow knows it with what its version.json says was deleted besides.

    A damaged version.json says nothing; `check_file` complains of it.
    """
    try:
        here = from_folder(version.folder)
    except RegistryError:
        return version
    pruned = tuple(sorted({*version.pruned, *here.pruned}))
    retired = here.retired if version.retired is None else version.retired
    return replace(version, pruned=pruned, retired=retired)


def write_files(folder: Path, weights: State, learner: State | None) -> dict[str, str]:
    """Write a version's states into a new folder and return the files' SHA-256."""
    try:
        folder.mkdir()
        checkpoint.save(folder / WEIGHTS, weights)
        if learner is not None:
            checkpoint.save(folder / LEARNER, learner)
        return {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    except (OSError, CheckpointError) as error:
        shutil.rmtree(folder, ignore_errors=True)  # the disk may be full
        raise RegistryError(f"cannot write a version: {error}") from error


def write_record(folder: Path, version: Version) -> None:
    """Write a version's version.json, whole or not at all."""
    parts = {"number": version.number, **version.record()}
    write_json(folder / RECORD, {**parts, "pruned": version.pruned, "retired": version.retired})


def place(new: Path, version: Version) -> None:
    """Give a folder with all of a version's files its name, for good."""
    try:
        os.rename(new, version.folder)
        sync_folder(version.folder.parent)
    except OSError as error:
        raise RegistryError(f"cannot create {version.folder}: {error.strerror}") from error


def drop_files(version: Version) -> None:
    """Delete the files that a version is marked to have lost."""
    try:
        for name in version.gone:
            (version.folder / name).unlink(missing_ok=True)
        if version.gone and version.folder.exists():
            sync_folder(version.folder)
    except OSError as error:
        raise RegistryError(f"cannot delete {error.filename}: {error.strerror}") from error


def check_file(version: Version, name: str) -> Path:
    """Return the path of a version's file after checking that it is what was registered.

    Raises:
        RegistryError: it is missing, truncated, altered, was pruned or never there, the version is
            retired, or version.json does not agree with MLflow.
    """
    what = f"{name} of version {version.number}"
    if version.retired is not None:
        raise RegistryError(f"{what} was deleted when it was retired: {version.retired}")
    if name in version.pruned:
        raise RegistryError(f"{what} was pruned to save room; take a newer version")
    if name not in version.hashes:
        raise RegistryError(f"{what}: it was registered without one")
    if from_folder(version.folder).record() != version.record():
        raise RegistryError(f"{RECORD} of version {version.number} is not what MLflow has: altered")
    path = version.folder / name
    try:
        found = _sha256(path)
    except OSError as error:
        raise RegistryError(
            f"{what} is missing or unreadable ({error.strerror}); restore {path}, or retire the "
            "version"
        ) from error
    if found != version.hashes[name]:
        raise RegistryError(
            f"{what} was truncated or altered: {path.stat().st_size} bytes of SHA-256 {found}, not "
            f"{version.hashes[name]}; restore {path}, or retire the version"
        )
    return path


def load(version: Version, name: str) -> State:
    """Read a state of a version after `check_file`."""
    try:
        state: State = checkpoint.load(check_file(version, name))
    except CheckpointError as error:
        raise RegistryError(f"{name} of version {version.number}: {error}") from error
    return state


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all, and flush it; one writer at a time."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RegistryError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made(
    number: int,
    record: Mapping[str, Any],
    folder: Path,
    pruned: tuple[str, ...],
    retired: str | None,
) -> Version:
    lasting = {name: record[name] for name in _LASTING}
    return Version(number=number, folder=folder, pruned=pruned, retired=retired, **lasting)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
