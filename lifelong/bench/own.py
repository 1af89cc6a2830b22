"""Data of one's own in the place of a suite: a table, or a folder of images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from lifelong.bench.suites import Suite
from lifelong.core.errors import DatasetError
from lifelong.streams import Labelled, image_folder, table

TABLES = (".csv", ".csv.gz", ".parquet")
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class OwnSuite(Suite):
    """A protocol for data that only its owner has; what a suite has, and how to read them.

    Attributes:
        label: the column of a table that holds the labels.
        size: what images are resized to, in both directions; None if all are of one size.
        test: the share of each class that is tested on.
        content: SHA-256 of what was read, so that a run does not go on with other data.
    """

    label: str = "label"
    size: int | None = None
    test: float = 0.2
    content: str = ""

    fixed: ClassVar[tuple[str, ...]] = (*Suite.fixed, "data", "content")


_SHARED = {"width": 100, "head": "fixed", "optimizer": "adam", "lr": 1e-3, "batch": 32, "epochs": 5}
_OF_TABLES = OwnSuite(
    "rows of a table in their order, in 5 stretches", "", scenario="in-order", scale=1.0,
    **_SHARED,  # type: ignore[arg-type]
)  # fmt: skip
_OF_IMAGES = OwnSuite(
    "images by their folders, class-incremental", "", model="cnn",
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


def short_name(name: str) -> str:
    """Return what to call a suite where a path will not do.

    Example:
        >>> short_name("shop/orders.csv.gz"), short_name("digits")
        ('orders', 'digits')
    """
    return Path(name).name.split(".")[0] if is_own(name) else name


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of the names and sizes of what is in it.

    Raises:
        DatasetError: it is not there, or cannot be read.
    """
    sha = hashlib.sha256()
    try:
        for part in _pieces(path):
            sha.update(part)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    return sha.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode()
        return
    with path.open("rb") as opened:
        while part := opened.read(CHUNK):
            yield part


def load_own(config: Mapping[str, Any]) -> Labelled:
    """Read the data of a run.

    A table's features come less their mean over the training rows, and over their deviation.

    Raises:
        DatasetError: they are damaged, not as asked for, or others than when the run was settled.
        MissingExtra: what reads them is not installed.
    """
    return _load(*(config[name] for name in ("data", "label", "size", "test", "content")))


@lru_cache(maxsize=1)
def _load(data: str, label: str, size: int | None, test: float, content: str) -> Labelled:
    path = Path(data)
    if digest(path) != content:
        raise DatasetError(f"{path} is not what it was when the run began; start another, --out")
    if not data.endswith(TABLES):
        return image_folder(path, size=None if size is None else (size, size), test=test)
    try:
        found = table(path, label, test=test)
    except DatasetError as error:
        if f"no column {label};" not in str(error):
            raise
        raise DatasetError(f"{error}; say which holds the labels: --set label=COLUMN") from error
    assert isinstance(found.train_x, torch.Tensor)
    assert isinstance(found.test_x, torch.Tensor)
    deviation, mean = torch.std_mean(found.train_x.double(), dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    train, test_ = (((x - mean) / deviation).float() for x in (found.train_x, found.test_x))
    return replace(found, train_x=train, test_x=test_)
