"""CIFAR-10, from its binary version or from a zip file of JPEGs."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from lifelong.core.errors import DatasetError
from lifelong.streams.images import image_folder
from lifelong.streams.labelled import Labelled
from lifelong.streams.sources import Source, cache_folder, data_folders, fetch, find

ZIP = "cifar10-jpeg.zip"
BINARY = "cifar-10-binary.tar.gz"
SOURCE = Source(
    "cifar10",
    "https://www.cs.toronto.edu/~kriz/",
    {BINARY: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_COLUMNS = ("train_x", "train_y", "test_x", "test_y")
_ROW = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
_BATCH = 10_000


def cifar10(data_dir: str | Path | None = None, cache: Path | None = None) -> Labelled:
    """Load CIFAR-10: 50000 + 10000 colour images of 10 classes, uint8 (rows, 3, 32, 32).

    Krizhevsky 2009, "Learning multiple layers of features from tiny images". Two forms are
    known: the original binary version, `cifar-10-binary.tar.gz`, in its own order; and
    `cifar10-jpeg.zip` with `train/<class>/*.jpg` and `test/<class>/*.jpg`, in the order of
    these paths, thus class by class, whose pixels JPEG has changed slightly. In one folder the
    original is preferred; what is downloaded is the original. The decoded rows are kept in the
    cache folder, so that the next time they are read in a moment.

    Raises:
        DatasetError: the files are missing and cannot be fetched, or are damaged.
    """
    store = (cache or cache_folder()) / SOURCE.folder
    folders = [*data_folders(SOURCE.folder, data_dir), store]
    for folder in folders:
        for name in (BINARY, ZIP):
            if find([name], [folder]):
                return _kept(folder / name, store)
    return _kept(fetch(SOURCE, folders[:-1], cache) / BINARY, store)


def read_binary(path: str | Path) -> Labelled:
    """Read the binary version's archive in memory; nothing is unpacked to disk.

    Each of its files has 10000 rows of 3073 bytes: a label, then the three colour planes.

    Raises:
        DatasetError: the archive is damaged, or a file is missing or of another size.
    """
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    found: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.size > _BATCH * _ROW:
                    raise DatasetError(f"{path} has {member.name} of {member.size} bytes: too many")
                file = archive.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = _rows_of(f"{name} in {path}", file.read())
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read ({error}); fetch it again") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)}; it is not CIFAR-10's binary form")
    train = np.concatenate([found[name] for name in names[:-1]])
    return _labelled(*_parted(train), *_parted(found[names[-1]]))


def _rows_of(name: str, content: bytes) -> np.ndarray:
    if len(content) != _BATCH * _ROW:
        raise DatasetError(f"{name} has {len(content)} bytes, not {_BATCH * _ROW}")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(_BATCH, _ROW)
    if rows[:, 0].max() >= len(CLASSES):
        raise DatasetError(f"{name} has the label {rows[:, 0].max()}; there are 10 classes")
    return rows


def _parted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, 1:].reshape(-1, 3, 32, 32).copy(), rows[:, 0].astype(np.int64)


def _labelled(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> Labelled:
    train = torch.from_numpy(train_x), torch.from_numpy(train_y)
    return Labelled("cifar10", *train, torch.from_numpy(test_x), torch.from_numpy(test_y), CLASSES)


def _read(path: Path) -> Labelled:
    if path.name == BINARY:
        return read_binary(path)
    data = image_folder(path, name="cifar10", max_bytes=2**30)
    assert isinstance(data.train_x, torch.Tensor)
    shape = tuple(data.train_x.shape[1:])
    if tuple(data.class_names) != CLASSES or shape != (3, 32, 32):
        raise DatasetError(
            f"{path} has images of shape {shape} in the classes {list(data.class_names)}; "
            "it is not CIFAR-10"
        )
    return data


def _kept(path: Path, store: Path) -> Labelled:
    """Read what was decoded earlier from this very file, or decode it and keep that."""
    status = path.stat()
    digest = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    kept = store / f"decoded-{digest.hexdigest()[:16]}.npz"
    unreadable = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error)
    # Opened here, as numpy leaves a damaged file open.
    with suppress(*unreadable), kept.open("rb") as file:
        columns = np.load(file, allow_pickle=False)
        return _labelled(*(columns[name] for name in _COLUMNS))
    data = _read(path)
    # A cache that cannot be written costs time, not correctness.
    with suppress(OSError):
        store.mkdir(parents=True, exist_ok=True)
        _write(kept, data)
    return data


def _write(path: Path, data: Labelled) -> None:
    train_x, train_y, test_x, test_y = (np.asarray(getattr(data, name)) for name in _COLUMNS)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
