"""The versions of a model in a folder: their files, what they came from, which one is served.

Layout: `versions/N/` holds weights.safetensors, learner.safetensors and version.json; `registry.db`
is MLflow's store, with the same facts, the aliases and the history of champions; `served.json`
repeats the aliases for those who poll. A version's folder is renamed into place whole before MLflow
hears of it. What a kill left undone after that is finished by the next to open the registry.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from lifelong.core.errors import RegistryError
from lifelong.core.strategy import State
from lifelong.serve import versions
from lifelong.serve.runs import locked, log_results
from lifelong.serve.served import publish, served
from lifelong.serve.tracking import Tracking, check_metrics
from lifelong.serve.versions import LEARNER, WEIGHTS, Version, from_tags

__all__ = ["LEARNER", "WEIGHTS", "Registry", "Version", "log_results", "served"]


class Registry:
    """Versions of a model, and the aliases that say which of them is served.

    Several processes may use one folder at once. The aliases "champion" and "challenger" are the
    ones that the service knows; the folder can be looked at with
    `mlflow ui --backend-store-uri sqlite:///FOLDER/registry.db`. The first call in a process takes
    some seconds, to import MLflow; so does the first ever, to make its tables.

    Args:
        folder: where everything is kept; created if need be.
        name: the model's name in MLflow.

    Raises:
        RegistryError: the folder cannot be written, or a version's folder in it is damaged and not
            known to MLflow. Every method raises it when files or MLflow's store fail.
        ValueError: the name holds more than letters, digits, "_" and "-".
    """

    def __init__(self, folder: Path | str, name: str = "model") -> None:
        self.folder = Path(folder).absolute()
        self._versions = self.folder / "versions"
        try:
            self._versions.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(f"cannot create {self._versions}: {error.strerror}") from error
        self._tracking = Tracking(self.folder / "registry.db", name)
        with self._lock():
            self._settle()
        with locked(self._versions / ".writer.lock", wait=None) as alone:
            if alone:  # or else what looks left over is being written
                self._sweep()

    def register(
        self,
        weights: State,
        learner: State | None,
        *,
        parent: int | None,
        first_offset: int,
        last_offset: int,
        metrics: Mapping[str, float],
        note: str = "",
        id: str,
    ) -> Version:
        """Add a version, whole or not at all, and return it once it is on disk.

        Args:
            weights: what is needed to predict: the model's state.
            learner: what is needed to go on learning: the whole learner's state.
            parent: the version that it was learned from; None for the first.
            first_offset: the first event that it learned from and its parent had not.
            last_offset: the last event that it has seen.
            metrics: what was measured of it; finite.
            note: what a person should know.
            id: a name for what is registered. If there is a version of this id, it is returned and
                nothing else happens, so a call may be repeated after a crash.

        Raises:
            ValueError: a metric is not finite, or a name or number is not what it should be.
            RegistryError: the states or MLflow's store cannot be written; call again.
        """
        numbers = check_metrics(metrics)
        versions.check_new(parent, first_offset, last_offset, note, id)
        with locked(self._versions / ".writer.lock"):
            with self._lock():
                newest = self._newest()
            if (known := self._tracking.number_of(id)) is not None:
                return self.get(known)
            if parent is not None and parent > newest:
                raise ValueError(f"parent {parent}, but the newest version is {newest}")
            self._sweep()
            new = self._versions / ".new"
            version = Version(
                newest + 1, id, parent, first_offset, last_offset, numbers, time.time(), note,
                versions.write_files(new, weights, learner), self._versions / str(newest + 1),
            )  # fmt: skip
            versions.write_record(new, version)
            with self._lock():
                versions.place(new, version)
                self._record(version)
        return version

    def versions(self) -> list[Version]:
        """Return all versions, oldest first, also those pruned and retired."""
        return [
            from_tags(number, tags, self._versions / str(number))
            for number, tags in self._tracking.tags().items()
        ]

    def get(self, number: int) -> Version:
        """Return one version.

        Raises RegistryError if there is none of this number.
        """
        tags = self._tracking.tags_of(number)
        return from_tags(number, tags, self._versions / str(number))

    def verify(self, number: int) -> Version:
        """Return a version after checking every byte of the files that it should have.

        Raises:
            RegistryError: it cannot be served: retired, pruned, or a file is missing or altered.
        """
        version = self.get(number)
        for name in {WEIGHTS, *version.hashes} - (set(version.pruned) - {WEIGHTS}):
            versions.check_file(version, name)
        return version

    def load_weights(self, number: int) -> State:
        """Read a version's weights, after comparing their SHA-256 with what was registered.

        Raises RegistryError if they are missing, truncated, altered, pruned or retired.
        """
        return versions.load(self.get(number), WEIGHTS)

    def load_learner(self, number: int) -> State:
        """Read a version's whole learner, after the same check as `load_weights`.

        Raises RegistryError if it is missing, truncated, altered, pruned, retired, or never was.
        """
        return versions.load(self.get(number), LEARNER)

    def alias(self, name: str) -> int | None:
        """Return the number of the version that an alias points at."""
        return self._tracking.aliases()[0].get(name)

    def set_alias(self, name: str, number: int) -> None:
        """Point an alias at a version, after checking its files.

        A version that becomes champion is added to the history; one that was champion before cuts
        the history back to where it was: that is a rollback.

        Raises:
            RegistryError: the version cannot be served; the alias is as it was.
            ValueError: the name is not one that MLflow and served.json can hold.
        """
        self.verify(number)
        with self._lock():
            if not self.get(number).servable:  # pruned or retired since
                self.verify(number)
            self._tracking.set_alias(name, number)
            publish(self.folder, self._tracking)

    def drop_alias(self, name: str) -> None:
        """Make an alias point at nothing; one that does already is left."""
        with self._lock():
            if name in self._tracking.aliases()[0]:
                self._tracking.set_alias(name, None)
            publish(self.folder, self._tracking)

    def previous_champion(self) -> int | None:
        """Return the newest version that was champion before this one and is still whole."""
        for number in reversed(served(self.folder)["previous"]):
            with contextlib.suppress(RegistryError):
                return self.verify(number).number
        return None

    def prune(
        self, keep_learners: int = 5, keep: int = 50, rollback: int = 5, records: int = 1000
    ) -> list[int]:
        """Delete the files of old versions, and return the versions that lost any.

        Versions with an alias and the last champions are left whole.

        Args:
            keep_learners: how many of the newest versions keep learner.safetensors.
            keep: how many of the newest keep weights.safetensors.
            rollback: how many past champions are left whole.
            records: how many of the newest are known at all; the others leave MLflow, too.

        Raises:
            ValueError: a number is negative, or fewer are to be known than to have weights.
        """
        if min(keep_learners, keep, rollback) < 0 or records < max(keep, 1):
            given = f"{keep_learners}, {keep}, {rollback}, {records}"
            raise ValueError(f"prune({given}); give 0 or more, and `records` of at least `keep`")
        pruned, gone, forgotten = [], set(), []
        with self._lock():
            aliases, history = self._tracking.aliases()
            past = [number for number in history if number != aliases.get("champion")]
            safe = {*aliases.values(), *past[max(0, len(past) - rollback) :]}
            for age, version in enumerate(reversed(self.versions())):
                if version.number in safe:
                    continue
                old = {LEARNER} if age >= keep_learners else set()
                old |= set(version.hashes) if age >= keep else set()
                if lost := (old & version.hashes.keys()) - set(version.gone):
                    self._mark(replace(version, pruned=tuple(sorted(lost | {*version.pruned}))))
                    pruned.append(version.number)
                    gone |= {version.number} if age >= keep else set()
                if age >= records:
                    forgotten.append(version)
            publish(self.folder, self._tracking, gone | {one.number for one in forgotten})
            self._forget(forgotten)
        return sorted(pruned)

    def _forget(self, forgotten: Collection[Version]) -> None:
        """Let nothing be known of versions: folders first, or nobody could explain them."""
        for version in forgotten:
            shutil.rmtree(version.folder, ignore_errors=True)
        gone = [one.number for one in forgotten if not one.folder.exists()]
        if gone:
            self._tracking.forget(gone)

    def drop_learners(self, numbers: Collection[int]) -> None:
        """Delete learner.safetensors of these versions, whoever points at them: for erasure."""
        with self._lock():
            for version in self.versions():
                held = LEARNER in version.hashes and LEARNER not in version.gone
                if held and version.number in numbers:
                    self._mark(replace(version, pruned=tuple(sorted({LEARNER, *version.pruned}))))

    def retire(self, number: int, reason: str) -> None:
        """Delete a version's files and never let an alias point at it again.

        Raises:
            RegistryError: an alias points at it; nothing is changed then.
        """
        self.erase_versions(number, number, reason=reason)

    def erase_versions(
        self, first: int, last: int | None = None, *, reason: str = "erasure"
    ) -> list[int]:
        """Retire the versions from `first` to `last`, both included, and return which were not yet.

        Args:
            first: the first version that has seen what is to be erased.
            last: the last one; None for the newest.
            reason: kept with each and shown to whoever asks for it; no personal data.

        Raises:
            RegistryError: there is no such version, or an alias points at one of them; nothing is
                changed then.
        """
        with self._lock():
            found = {
                v.number: v for v in self.versions() if first <= v.number <= (last or v.number)
            }
            if first not in found:
                raise RegistryError(f"there is no version {first} to retire")
            for alias, number in self._tracking.aliases()[0].items():
                if number in found:
                    raise RegistryError(
                        f"version {number} is the {alias}; point the alias at another version, or "
                        "drop it, before the version is retired"
                    )
            retired = [version for version in found.values() if version.retired is None]
            for version in retired:
                self._mark(replace(version, retired=reason))
            publish(self.folder, self._tracking, found)
        return [version.number for version in retired]

    def _lock(self) -> contextlib.AbstractContextManager[bool]:
        return locked(self.folder / ".registry.lock")

    def _record(self, version: Version) -> None:
        number = self._tracking.record(version.folder, version.record(), version.tags())
        if number != version.number:
            raise RegistryError(f"MLflow gave {version.folder} the number {number}")

    def _mark(self, version: Version) -> None:
        """Write down which files a version loses, then delete them."""
        versions.write_record(version.folder, version)
        self._tracking.tag(version.number, version.tags())
        versions.drop_files(version)

    def _newest(self) -> int:
        newest = self._tracking.last()
        if not (self._versions / str(newest + 1)).exists():
            return newest
        self._settle()  # a registration that failed between its two halves
        return self._tracking.last()

    def _sweep(self) -> None:
        shutil.rmtree(self._versions / ".new", ignore_errors=True)

    def _settle(self) -> None:
        """Finish what others began before they died: registrations, deletions, served.json."""
        tags = self._tracking.tags()
        gone = set()
        folders = {int(f.name): f for f in self._versions.iterdir() if f.name.isdecimal()}
        for number, folder in sorted(folders.items()):
            if number in tags:
                version = from_tags(number, tags[number], folder)
                if (both := versions.settled(version)) != version:
                    self._tracking.tag(number, both.tags())
                    version = both
            else:
                version = versions.from_folder(folder)
                if number != (newest := self._tracking.last()) + 1:
                    raise RegistryError(
                        f"{folder} is not in MLflow, where {newest} is the newest; move it away"
                    )
                self._record(version)
            versions.drop_files(version)
            gone |= set() if version.servable else {number}
        publish(self.folder, self._tracking, gone)
