"""Where the files of data sets are found, and how they are fetched if they are not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifelong.core.errors import DatasetError, MissingExtra

DATA_VARIABLE = "LIFELONG_DATA"


@dataclass(frozen=True, slots=True)
class Source:
    """Files of a data set at its public home: names and SHA-256 sums.

    Attributes:
        folder: the data set's folder under a data directory.
        home: the address that the files' names are appended to.
        files: SHA-256 sums by file name.
    """

    folder: str
    home: str
    files: Mapping[str, str]


def cache_folder() -> Path:
    """Return the folder for downloads: `lifelong` in XDG_CACHE_HOME, or else in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lifelong"


def data_folders(folder: str, data_dir: str | Path | None = None) -> list[Path]:
    """List where a data set's files may lie, first choice first: `data_dir`, LIFELONG_DATA."""
    roots = [data_dir, os.environ.get(DATA_VARIABLE)]
    return [Path(root).expanduser() / folder for root in roots if root]


def find(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """Return the first folder that has all of the files."""
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    return None


def fetch(source: Source, looked: Sequence[Path], cache: Path | None = None) -> Path:
    """Download what is missing or damaged in the cache; return the folder that has all files.

    A file whose sum is wrong is refused and removed.

    Args:
        source: the files.
        looked: the folders that did not have them, to be told if this fails too.
        cache: the cache folder, if not `cache_folder()`.

    Raises:
        MissingExtra: pooch is not installed.
        DatasetError: a file cannot be had, or is not the one expected.
    """
    folder = (cache or cache_folder()) / source.folder
    try:
        import pooch
    except ImportError as error:
        raise MissingExtra("pooch", "data", error) from error
    for name, digest in source.files.items():
        try:
            pooch.retrieve(
                source.home + name, known_hash=f"sha256:{digest}", fname=name, path=folder
            )
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            places = ", ".join(str(each) for each in [*looked, folder])
            raise DatasetError(
                f"{name} is in none of {places}; put {', '.join(source.files)} into "
                f"{source.folder}/ of a folder and set {DATA_VARIABLE} to that folder; "
                f"{source.home + name} cannot be fetched ({reason:.120})"
            ) from error
    return folder
