"""MLflow's store in one SQLite file, without a server: its tables, experiments and runs.

MLflow takes seconds to import, so it is imported by the first call.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifelong.core.errors import RegistryError
from lifelong.serve import tables

ID_TAG = "lifelong.id"
"""The tag by which a run or version that was logged before is found again."""
_WAIT_SECONDS = 120.0


def log_results(uri: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Log results of `lifelong run` to an MLflow store, one run for each, and return their ids.

    A suite is an experiment; numbers are metrics, the rest and the configuration are parameters.
    `accuracy/J` at step I is the accuracy on task J after task I. Logging the same result again
    adds nothing.

    Args:
        uri: `sqlite:///FILE`, as for `mlflow ui --backend-store-uri`.
        results: as in a results.json.

    Raises:
        RegistryError: the uri is of another kind, or the file cannot be written.
    """
    if not uri.startswith("sqlite:///"):
        raise RegistryError(f"{uri!r} is not an SQLite store; give sqlite:///FILE")
    database = Path(uri.removeprefix("sqlite:///")).absolute()
    client, runs = connect(database), []
    with asked(f"log results to {database}"), locked(lock_of(database)):
        for result in results:
            experiment = experiment_of(client, str(result.get("suite", "results")), database)
            runs.append(_log_result(client, experiment, result))
    return runs


def _log_result(client: Any, experiment: str, result: Mapping[str, Any]) -> str:
    text = json.dumps(result, sort_keys=True, default=str)
    id = hashlib.sha256(text.encode()).hexdigest()
    begun = client.search_runs([experiment], f"tags.`{ID_TAG}` = '{id}'", max_results=1)
    params: dict[str, Any] = {}
    metrics: list[tuple[str, float, int]] = []
    for name, value in result.items():
        if name == "accuracy" and isinstance(value, list):
            metrics += [
                (f"accuracy/{task}", float(part), step)
                for step, row in enumerate(value)
                for task, part in enumerate(row)
                if part is not None and math.isfinite(part)
            ]
        elif isinstance(value, int | float) and name != "seed" and not isinstance(value, bool):
            if math.isfinite(value):
                metrics.append((name, float(value), 0))
        elif isinstance(value, Mapping):
            params.update({f"{name}.{key}": part for key, part in value.items()})
        elif value is not None:
            params[name] = value
    name = f"{result.get('strategy', 'run')}, seed {result.get('seed', '?')}"
    tags = {ID_TAG: id, "mlflow.runName": name}
    run = begun[0].info.run_id if begun else None
    # The time is part of what a metric's point is: the same point logged again is one.
    when = begun[0].info.start_time / 1000 if begun else time.time()
    return log_run(client, experiment, run, tags=tags, params=params, metrics=metrics, when=when)


def log_run(
    client: Any,
    experiment: str,
    run: str | None,
    *,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    metrics: Sequence[tuple[str, float, int]],
    when: float,
) -> str:
    """Fill a run, or a new one, and end it."""
    from mlflow.entities import Metric, Param

    milliseconds = int(when * 1000)
    if run is None:
        info = client.create_run(experiment, start_time=milliseconds, tags=dict(tags)).info
        run = str(info.run_id)
    # MLflow takes 1000 metrics and 100 parameters in a batch, and 6000 characters in one.
    points = [Metric(name, value, milliseconds, step) for name, value, step in metrics]
    parts = [
        Param(re.sub(r"[^\w. :/-]", "_", name)[:250], str(value)[:6000])
        for name, value in params.items()
    ]
    for start in range(0, len(points), 900):
        client.log_batch(run, metrics=points[start : start + 900])
    for start in range(0, len(parts), 90):
        client.log_batch(run, params=parts[start : start + 90])
    client.set_terminated(run, end_time=milliseconds)
    return run


def connect(database: Path) -> Any:
    """Return MLflow's client of a file, after its tables were made."""
    client = load()
    uri = f"sqlite:///{database}"
    with warnings.catch_warnings(), asked(f"open {database}"):
        warnings.simplefilter("ignore")
        _create(database, client)
        return client(tracking_uri=uri, registry_uri=uri)


def load() -> Any:
    """Import MLflow with its stores, and return the class of its clients."""
    # Set before MLflow is imported, and always: nothing here may call out.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's modules use what SQLAlchemy has deprecated
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - or the first client does
        from mlflow.tracking import MlflowClient
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


def _create(database: Path, client: Any) -> None:
    """Make the tables in another file and copy it into place.

    They may be made in many transactions: in place, a kill among them would leave a file that
    MLflow can neither use nor repair.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(database)):
        if database.exists():
            return
        for left in database.parent.glob(f".{database.name}.*/"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(
            prefix=f".{database.name}.", dir=database.parent, ignore_cleanup_errors=True
        ) as folder:
            whole = Path(folder) / "whole.db"
            shutil.copyfile(tables.make(Path(folder), client), whole)
            with open(whole, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(whole, database)


def lock_of(database: Path) -> Path:
    """Return the file to lock while a store's tables or names are made."""
    return database.with_name(f".{database.name}.lock")


def experiment_of(client: Any, name: str, database: Path) -> str:
    """Return the id of an experiment, which is created if need be; `lock_of` must be held."""
    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = (database.parent / "artifacts").as_uri()
        return str(client.create_experiment(name, artifact_location=artifacts))
    return str(found.experiment_id)


@contextlib.contextmanager
def locked(path: Path, wait: float | None = _WAIT_SECONDS) -> Iterator[bool]:
    """Hold an exclusive lock on a file, which dies with the process; the file stays.

    Args:
        wait: seconds; None to go on at once, without the lock if another has it.

    Returns:
        Whether the lock is held.

    Raises:
        RegistryError: another process held it for all this time.
    """
    deadline = time.monotonic() + (wait or 0)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not (held := _try_lock(descriptor)) and wait is not None:
            if time.monotonic() > deadline:
                raise RegistryError(f"{path} is locked for {wait} s; see which process hangs")
            time.sleep(0.005)
        yield held
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def asked(what: str) -> Iterator[None]:
    """Turn MLflow's errors into ours."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (MlflowException, OSError) as error:
        raise RegistryError(f"cannot {what}: {error}") from error
    except DatabaseError as error:
        how = "make room if the disk is full; restore a backup if the file is damaged"
        raise RegistryError(f"cannot {what}: {error.orig}; {how}") from error
