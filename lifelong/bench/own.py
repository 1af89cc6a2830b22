"""Data of one's own in the place of a suite: a table, or a folder of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from lifelong.bench.suites import Suite, suite_of
from lifelong.core.errors import DatasetError
from lifelong.streams import Labelled, image_folder, table
from lifelong.streams.images import SUFFIXES

TABLES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class OwnSuite(Suite):
    """A protocol for data that only its owner has; what a suite has, and how to read them.

    Attributes:
        label: the column of a table that holds the labels.
        features: the columns to learn from, separated by commas, or as a JSON list; all others
            than the label if empty.
        size: what images are resized to, in both directions; None if all are of one size.
        test: the share of each class that is tested on.
        content: SHA-256 of what was read, so that a run does not go on with other data.
    """

    label: str = "label"
    features: str = ""
    size: int | None = None
    test: float = 0.2
    content: str = ""

    fixed: ClassVar[tuple[str, ...]] = (*Suite.fixed, "data", "content")


_SHARED = {"width": 100, "head": "fixed", "optimizer": "adam", "lr": 1e-3, "batch": 32, "epochs": 5}
_OF_TABLES = OwnSuite(
    "rows of a table", "", scenario="in-order", scale=1.0,
    **_SHARED,  # type: ignore[arg-type]
)  # fmt: skip
_OF_IMAGES = OwnSuite(
    "images by their folders", "", model="cnn",
    **_SHARED | {"width": 32},  # type: ignore[arg-type]
)  # fmt: skip


def is_own(name: str) -> bool:
    """Tell whether a suite's name is the path of a table, a zip file or a folder.

    Example:
        >>> is_own("shop/orders.csv"), is_own("digits")
        (True, False)
    """
    return name.endswith((*TABLES, ".zip")) or ("/" in name and Path(name).is_dir())


def own_suite(name: str) -> OwnSuite:
    """Return the protocol for a file or a folder.

    Raises:
        DatasetError: it is not there, or cannot be read.
    """
    path = Path(name).absolute()
    base = _OF_TABLES if name.endswith(TABLES) else _OF_IMAGES
    return replace(base, data=str(path), content=digest(path))


def title_of(config: Mapping[str, Any]) -> str:
    """Say what a settled run is on: the suite's summary, or how data of one's own are cut.

    Example:
        >>> from lifelong.bench.suites import resolve
        >>> title_of(resolve("rotated-mnist", "replay", {}))
        'MNIST turned by 0 to 180 degrees in 5 tasks'
    """
    if "content" not in config:
        return suite_of(config["suite"]).summary
    base = _OF_TABLES if config["data"].endswith(TABLES) else _OF_IMAGES
    if config["scenario"] == "in-order":
        return f"{base.summary} in their order, in {config['tasks']} stretches"
    return f"{base.summary}, {config['scenario']} in {config['tasks']} tasks"


def short_name(name: str) -> str:
    """Return what to call a suite where a path will not do.

    Example:
        >>> short_name("shop/orders.csv.gz"), short_name("digits"), short_name("shop/.csv")
        ('orders', 'digits', 'own')
    """
    if not is_own(name):
        return name
    short = Path(name).resolve().name
    for suffix in (*TABLES, ".zip"):
        short = short.removesuffix(suffix)
    return short.strip(".") or "own"


def check_apart(name: str, out: Path) -> None:
    """Make sure that a run does not write among the images that it reads.

    Raises:
        ValueError: it would.
    """
    if is_own(name) and Path(name).is_dir() and out.resolve().is_relative_to(Path(name).resolve()):
        raise ValueError(f"{out} lies in {name}, which is read; choose another folder with --out")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the images of a folder and their names.

    Raises:
        DatasetError: it is not there, or cannot be read.
    """
    try:
        files = _files(path)
        states = [file.stat() for file in files]
        seen = tuple((f, s.st_size, s.st_mtime_ns) for f, s in zip(files, states, strict=True))
        return _digest(path, seen)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)


@lru_cache(maxsize=4)
def _digest(path: Path, seen: tuple[tuple[Path, int, int], ...]) -> str:
    """Read files that are as large and as old as they were seen to be, once."""
    whole = hashlib.sha256()
    for file, *_ in seen:
        with file.open("rb") as opened:
            own = hashlib.file_digest(opened, "sha256").hexdigest()
        if file == path:
            return own
        whole.update(f"{file.relative_to(path)}\0{own}\n".encode())
    return whole.hexdigest()


def load_own(config: Mapping[str, Any]) -> Labelled:
    """Read the data of a run.

    A table's features come less their mean over the training rows, and over their deviation.

    Raises:
        DatasetError: they are damaged, not as asked for, of one class alone, or others than when
            the run was settled.
        MissingExtra: what reads them is not installed.
    """
    return _load(*(config[name] for name in _READ))


_READ = ("data", "label", "features", "size", "test", "content")


@lru_cache(maxsize=1)
def _load(
    data: str, label: str, features: str, size: int | None, test: float, content: str
) -> Labelled:
    path = Path(data)
    if digest(path) != content:
        raise DatasetError(f"{path} is not what it was when the run began; start another, --out")
    read = _read(path, label, features, size, test)
    if len(read.class_names) == 1:
        raise DatasetError(
            f"all {len(read.train_y) + len(read.test_y)} rows of {path} are of one class, "
            f"{read.class_names[0]!r}, so there is nothing to tell apart; {_way_out(path)}"
        )
    return read


def _read(path: Path, label: str, features: str, size: int | None, test: float) -> Labelled:
    if not path.name.endswith(TABLES):
        return image_folder(path, size=None if size is None else (size, size), test=test)
    try:
        return table(path, label, features=_names(features), test=test, standardise=True)
    except DatasetError as error:
        told = str(error)
        if f"no column {label};" in told:
            raise DatasetError(f"{told}; say which holds the labels: --set label=COLUMN") from error
        if "leave it out of `features`" in told:
            raise DatasetError(f"{told}: --set features=COLUMN,COLUMN") from error
        raise


def _names(features: str) -> list[str] | None:
    """Read names that are separated by commas, or a JSON list of them; None for none.

    Raises:
        ValueError: it begins like a JSON list and is none.
    """
    if not features.startswith("["):
        return [name.strip() for name in features.split(",")] if features else None
    try:
        return [str(name) for name in json.loads(features)]
    except ValueError:
        raise ValueError(
            f"features is {features!r}; give names with commas between them, or a JSON list"
        ) from None


def _way_out(path: Path) -> str:
    if path.name.endswith(TABLES):
        return "name another column of labels: --set label=COLUMN"
    return "give it a folder of images for each of two classes or more"
