"""The tables of a new MLflow store, without the seconds that its migrations take.

`tables.sql` has what the migrations of one release of MLflow make of an empty file. MLflow opens
what was made of it, checks its version, and migrates it where a release has more tables; where it
does not take it at all, its own migrations make the tables from the first one on.
`python -m lifelong.serve.tables` prints the file anew, by the release that is installed.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("tables.sql")


def make(folder: Path, client: Callable[..., Any]) -> Path:
    """Make a store with all tables, and return its file.

    Args:
        folder: an empty one.
        client: the class of MLflow's clients.
    """
    from mlflow.exceptions import MlflowException

    quick = folder / "quick.db"
    try:
        with closing(sqlite3.connect(quick)) as connection:
            connection.executescript(SCRIPT.read_text("utf-8"))
        _open(quick, client)
    except (OSError, sqlite3.Error, MlflowException):
        return migrated(folder, client)
    return quick


def migrated(folder: Path, client: Callable[..., Any]) -> Path:
    """Have MLflow's migrations make a store, and return its file."""
    path = folder / "migrated.db"
    _open(path, client)
    return path


def statements(database: Path) -> Iterator[str]:
    """Tell how to make a store's tables, with the rows that every store has."""
    with closing(sqlite3.connect(database)) as connection:
        for line in connection.iterdump():
            own = line.startswith(('INSERT INTO "alembic_version"', 'INSERT INTO "workspaces"'))
            if own or not line.startswith("INSERT INTO"):
                yield line


def _open(path: Path, client: Callable[..., Any]) -> None:
    uri = f"sqlite:///{path}"
    client(tracking_uri=uri, registry_uri=uri).search_registered_models()


def _print() -> None:
    from lifelong.serve import runs

    with tempfile.TemporaryDirectory() as folder:
        for line in statements(migrated(Path(folder), runs.load())):
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    _print()
