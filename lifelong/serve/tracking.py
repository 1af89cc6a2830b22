"""The versions of one model and the aliases that point at them, as MLflow keeps them."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifelong.core.errors import RegistryError
from lifelong.serve.runs import ID_TAG, asked, connect, experiment_of, lock_of, locked, log_run

_OURS = "workspace = 'default'"
"""Where MLflow keeps what was made without naming a workspace."""
_KEPT = f"{_OURS} AND v.current_stage != 'Deleted_Internal'"
"""What MLflow calls a version that is there."""
_HISTORY_TAG = "lifelong.champions"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ALIAS = re.compile(r"(?!(latest|previous|v\d+)$)[a-z][a-z0-9_-]{0,99}")
_METRIC = re.compile(r"(?!\.{1,2}(/|$))[\w. :-]+(/(?!\.{1,2}(/|$))[\w. :-]+)*", re.ASCII)


class Tracking:
    """The versions of one model in an MLflow store, and the aliases that point at them.

    Args:
        database: the SQLite file; its tables are created if need be, whole or not at all.
        name: the registered model, and the experiment that its runs belong to.

    Raises:
        RegistryError: the file cannot be opened, or is of another MLflow's schema. Every method
            raises it when MLflow does.
        ValueError: the name holds more than letters, digits, "_" and "-".
    """

    def __init__(self, database: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a model named {name!r}; use letters, digits, '_' and '-'")
        self.name = name
        self._client = connect(database)
        self._database = database
        self._one = threading.Lock()
        self._db: sqlite3.Connection | None = None
        with asked(f"open {database}"), locked(lock_of(database)):
            self._experiment = experiment_of(self._client, name, database)
            if not self._client.search_registered_models(f"name='{name}'", max_results=1):
                self._client.create_registered_model(name)
        # Every table that is read here has the columns that are read, or it is said now.
        self.aliases(), self.tags(), self.number_of("")

    def number_of(self, id: str) -> int | None:
        """Return the version registered under this id."""
        query = "SELECT t.version FROM model_version_tags t JOIN model_versions v USING"
        query += f"(workspace, name, version) WHERE name = ? AND key = ? AND value = ? AND {_KEPT}"
        with self._direct(f"look for {id!r}") as db:
            found = db.execute(query, (self.name, ID_TAG, id)).fetchone()
        return None if found is None else int(found[0])

    def last(self) -> int:
        """Return the highest version number, or 0."""
        query = f"SELECT ifnull(max(version), 0) FROM model_versions v WHERE name = ? AND {_KEPT}"
        with self._direct("look for the newest version") as db:
            return int(db.execute(query, (self.name,)).fetchone()[0])

    def tags(self) -> dict[int, dict[str, str]]:
        """Return the tags of every version, by its number, in order."""
        with self._direct("list the versions") as db:
            return _tags(db, "name = ?", (self.name,))

    def tags_of(self, number: int) -> dict[str, str]:
        """Return the tags of one version."""
        with self._direct(f"find version {number}") as db:
            found = _tags(db, "name = ? AND version = ?", (self.name, number))
        if number not in found:
            raise RegistryError(self._none(number))
        return found[number]

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        query = "REPLACE INTO model_version_tags(workspace, name, version, key, value) SELECT "
        query += "workspace, name, version, ?, ? FROM model_versions v "
        query += f"WHERE name = ? AND version = ? AND {_KEPT}"
        with self._direct(f"tag version {number}") as db:
            for key, value in tags.items():
                if not db.execute(query, (key, value, self.name, number)).rowcount:
                    raise RegistryError(self._none(number))

    def record(self, folder: Path, record: Mapping[str, Any], tags: Mapping[str, str]) -> int:
        """Add a version whose files are in this folder, with a run, and return its number.

        Called again after a crash, it goes on with the run that was begun.
        """
        with asked(f"register {folder}"):
            run = self._run(record)
            version = self._client.create_model_version(
                self.name,
                folder.as_uri(),
                run_id=run,
                tags={ID_TAG: record["id"], **tags},
                description=record["note"] or None,
            )
        return int(version.version)

    def _run(self, record: Mapping[str, Any]) -> str:
        begun = self._client.search_runs(
            [self._experiment], f"tags.`{ID_TAG}` = '{record['id']}'", max_results=1
        )
        params = {name: record[name] for name in ("parent", "first_offset", "last_offset")}
        metrics: dict[str, float] = record["metrics"]
        return log_run(
            self._client,
            self._experiment,
            begun[0].info.run_id if begun else None,
            tags={ID_TAG: record["id"]},
            params=params,
            metrics=[(key, value, record["last_offset"]) for key, value in metrics.items()],
            when=record["time"],
        )

    def forget(self, numbers: Collection[int]) -> None:
        """Delete versions and their runs for good; never the newest, whose number would come again.

        MLflow's own deletion leaves a row that says so, and its file would grow for ever. What is
        deleted here it has no way to refer to: no alias may point at these versions.
        """
        query = "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c "
        query += "WHERE m.type = 'table' AND c.name = 'run_uuid'"
        with self._direct("delete old versions") as db:
            tables = [table for (table,) in db.execute(query)]
            for number in numbers:
                which = f"WHERE name = ? AND version = ? AND {_OURS}"
                one = (self.name, number)
                runs = db.execute(f"SELECT run_id FROM model_versions {which}", one).fetchall()
                for table in ("model_version_tags", "model_versions"):
                    db.execute(f"DELETE FROM {table} {which}", one)
                for table in sorted(tables, key="runs".__eq__):  # that one last
                    db.executemany(f"DELETE FROM {table} WHERE run_uuid = ?", runs)

    def aliases(self) -> tuple[dict[str, int], list[int]]:
        """Return the version that each alias points at, and the champions so far, oldest first."""
        named = "SELECT alias, version FROM registered_model_aliases WHERE name = ? AND "
        past = "SELECT value FROM registered_model_tags WHERE name = ? AND key = ? AND "
        with self._direct("read the aliases") as db:
            found = db.execute(named + _OURS, (self.name,)).fetchall()
            kept = db.execute(past + _OURS, (self.name, _HISTORY_TAG)).fetchone()
        aliases = {str(name): int(number) for name, number in found}
        return aliases, [] if kept is None else json.loads(kept[0])

    def set_alias(self, alias: str, number: int | None) -> None:
        """Point an alias at a version, or drop it.

        Raises:
            ValueError: MLflow or served.json cannot hold an alias of this name.
        """
        if not _ALIAS.fullmatch(alias):
            raise ValueError(f"an alias {alias!r}; use 'champion', 'challenger' or such a word")
        query = "REPLACE INTO registered_model_aliases(workspace, name, version, alias) SELECT "
        query += "workspace, name, version, ? FROM model_versions v "
        query += f"WHERE name = ? AND version = ? AND {_KEPT}"
        with self._direct(f"set the alias {alias!r}") as db:
            if number is None:
                gone = "DELETE FROM registered_model_aliases WHERE name = ? AND alias = ? AND "
                db.execute(gone + _OURS, (self.name, alias))
            elif not db.execute(query, (alias, self.name, number)).rowcount:
                raise RegistryError(self._none(number))

    def set_history(self, champions: Sequence[int]) -> None:
        """Keep which versions have been champions, oldest first."""
        value = json.dumps(list(champions))
        with self._direct("keep the history of champions") as db:
            query = "REPLACE INTO registered_model_tags(workspace, name, key, value) "
            query += "VALUES('default', ?, ?, ?)"
            db.execute(query, (self.name, _HISTORY_TAG, value))

    def _none(self, number: int) -> str:
        return f"cannot find version {number}: {self._database} has none of that number"

    @contextlib.contextmanager
    def _direct(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Lend the database itself, in one transaction.

        MLflow's client takes 10 to 30 ms of the interpreter for each of these, while requests wait;
        the tables are those of one schema, which was checked when it was opened.
        """
        try:
            with self._one:
                if self._db is None:
                    self._db = sqlite3.connect(
                        self._database, timeout=60.0, check_same_thread=False
                    )
                    weakref.finalize(self, self._db.close)
                with self._db:
                    self._db.execute("BEGIN")
                    yield self._db
        except sqlite3.Error as error:
            raise RegistryError(f"cannot {doing} in {self._database}: {error}") from error


def _tags(
    db: sqlite3.Connection, which: str, values: Sequence[object]
) -> dict[int, dict[str, str]]:
    query = "SELECT version, key, value FROM model_versions v LEFT JOIN model_version_tags t USING"
    query += f"(workspace, name, version) WHERE {which} AND {_KEPT} ORDER BY version"
    found: dict[int, dict[str, str]] = {}
    for number, key, value in db.execute(query, values):
        tags = found.setdefault(int(number), {})
        if key is not None:
            tags[key] = value
    return found


def check_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics as plain floats.

    Raises:
        ValueError: one is not finite, or has a name that MLflow refuses.

    Example:
        >>> check_metrics({"accuracy": 1})
        {'accuracy': 1.0}
    """
    for name, value in metrics.items():
        if len(name) > 250 or not _METRIC.fullmatch(name):
            raise ValueError(
                f"a metric named {name!r}; use letters, digits, '_', '-', '.', ':', spaces and "
                "single slashes, up to 250 characters"
            )
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} is {value}; leave out what is not known")
    if len(metrics) > 1000:
        raise ValueError(f"{len(metrics)} metrics; MLflow takes up to 1000 with a version")
    return {name: float(value) for name, value in metrics.items()}
