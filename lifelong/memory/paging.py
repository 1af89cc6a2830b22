"""Files mapped into memory, and how many of their pages may stay mapped."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

READ = 64 << 10
"""Bytes that the system may map around an address that is read."""

WRITE = mmap.PAGESIZE
"""Bytes that it maps around an address that is written."""


class MappedFile:
    """A new file of zeros, mapped into memory; what stays mapped of it is bounded.

    The room on the disk is taken at once where that is possible. A file that was there before is
    replaced; whoever has it mapped keeps it.

    Args:
        path: where the file shall be.
        size: its bytes.

    Raises:
        OSError: it cannot be made, or there is no room on the disk. Nothing is left behind then.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = MappedFile(Path(folder, "x.bin"), 100 * 8)
        >>> file.budget = 3 * (8 + WRITE)
        >>> list(file.spans(7, 8 + WRITE))
        [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    """

    def __init__(self, path: Path, size: int) -> None:
        self.map, self._descriptor = _map(path, max(size, 1))
        weakref.finalize(self, os.close, self._descriptor)
        self.budget: int | None = None
        """Bytes that may be mapped between two releases; None for all of them."""
        self._touched = 0

    def spans(self, rows: int, cost: int) -> Iterator[slice]:
        """Cut rows to be touched into pieces; when the budget is spent, release the pages.

        Args:
            rows: how many.
            cost: bytes that one of them may map.
        """
        if self.budget is None:
            yield slice(0, rows)
            return
        step = max(self.budget // cost, 1)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            if self._touched + (stop - start) * cost > self.budget:
                self.release()
            yield slice(start, stop)
            self._touched += (stop - start) * cost

    def read(self, rows: NDArray[np.int64], size: int) -> bytearray:
        """Copy rows of `size` bytes each, past the map, so that none of their pages stays mapped.

        Reading through the map brings in `READ` bytes around each row: what takes a call to the
        system a row here takes two there, and again when the pages are wanted back.
        """
        at, file = (rows * size).tolist(), self._descriptor
        return bytearray().join([os.pread(file, size, place) for place in at])

    def release(self) -> None:
        """Unmap the pages; what was written stays in the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)
        self._touched = 0


def share_budget(files: list[MappedFile], budget: int) -> None:
    """Share what may stay mapped among files: the small ones whole, the others alike."""
    ascending = sorted(files, key=lambda file: len(file.map))
    for number, file in enumerate(ascending):
        share = budget // (len(ascending) - number)
        file.budget = None if len(file.map) <= share else share
        budget -= min(len(file.map), share)


def _map(path: Path, size: int) -> tuple[mmap.mmap, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    try:
        with new.open("x+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
            descriptor = os.dup(file.fileno())
        for advice in ("MADV_NOHUGEPAGE", "MADV_RANDOM"):  # else one touch may map megabytes
            if hasattr(mmap, advice):
                with suppress(OSError):  # a kernel without huge pages
                    mapped.madvise(getattr(mmap, advice))
        try:
            os.replace(new, path)
        except OSError:
            os.close(descriptor)
            raise
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return mapped, descriptor
