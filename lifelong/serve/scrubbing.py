"""Zeroing what is left of removed rows in an SQLite file, page by page, in place.

SQLite zeroes a row when it is deleted and a page when it is freed (`secure_delete`), but a page
that was split or merged keeps stale copies of the cells that moved, in bytes that it does not use.
Only those are written here. So each page means the same before, after and half-way: no reader and
no crash can tell the difference, and no room on the disk is needed.

The layout of pages is that of https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator

import apsw

from lifelong.core.errors import LogError

_LEAF_TABLE, _LEAF_INDEX, _INNER_TABLE, _INNER_INDEX = 13, 10, 5, 2
_TREES = {1, 5}
"""In the pointer map: roots of trees, and their other pages."""
_PENDING = 0x4000_0000
_READ, _WRITE, _SYNC = 2, 3, 5
_Access = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class Pages:
    """The pages of a connection's file, read and written as SQLite itself does.

    By SQLite's own file object: a second descriptor of the file, when closed, would let go of the
    locks that this process holds.

    Args:
        db: has the file open; nothing may checkpoint while its pages are written.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self.size = int(db.pragma("page_size"))
        self.count = int(db.pragma("page_count"))
        held = ctypes.c_void_p()
        code = apsw.SQLITE_FCNTL_FILE_POINTER
        if not db.file_control("main", code, ctypes.addressof(held)) or not held.value:
            raise LogError(f"cannot get at the pages of {db.filename}; use SQLite's own VFS")
        self._file = held.value
        table = ctypes.cast(held.value, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
        self._read, self._write = (_Access(table[place] or 0) for place in (_READ, _WRITE))
        self._sync = _Sync(table[_SYNC] or 0)
        self._map: tuple[int, bytes] = (0, b"")

    def read(self, page: int) -> bytearray:
        """Read a page; they count from 1."""
        held = ctypes.create_string_buffer(self.size)
        self._done(self._read(self._file, held, self.size, (page - 1) * self.size))
        return bytearray(held.raw)

    def write(self, page: int, content: bytearray) -> None:
        """Write a page back."""
        held = ctypes.create_string_buffer(bytes(content), self.size)
        self._done(self._write(self._file, held, self.size, (page - 1) * self.size))

    def sync(self) -> None:
        """Wait until what was written is on disk."""
        self._done(self._sync(self._file, 2))

    def is_tree(self, page: int) -> bool:
        """Whether the pointer map says that a page belongs to a table or an index."""
        if page < 3 or page == _PENDING // self.size + 1:
            return False
        each = self.size // 5 + 1
        where = (page - 2) // each * each + 2
        where += where == _PENDING // self.size + 1
        if page <= where:
            return False
        if self._map[0] != where:
            self._map = (where, bytes(self.read(where)))
        return self._map[1][5 * (page - where - 1)] in _TREES

    def _done(self, code: int) -> None:
        if code:
            raise LogError(f"cannot get at a page of the log: SQLite's error {code}")


def zero(pages: Pages, first: int, last: int) -> int:
    """Zero the unused bytes of pages `first` to `last`; return how many pages had any to zero."""
    changed = 0
    for number in range(first, last + 1):
        if not pages.is_tree(number):
            continue
        page, dirty = pages.read(number), False
        for start, end in unused(page):
            if page.count(0, start, end) < end - start:
                page[start:end] = bytes(end - start)
                dirty = True
        if dirty:
            pages.write(number, page)
            changed += 1
    if changed:
        pages.sync()
    return changed


def unused(page: bytes | bytearray) -> list[tuple[int, int]]:
    """Return the ranges of a tree's page that hold no cell and nothing that SQLite needs.

    Raises:
        LogError: its parts overlap: the page is damaged.
    """
    inner = page[0] in (_INNER_INDEX, _INNER_TABLE)
    block, cells, content, fragments = struct.unpack_from(">HHHB", page, 1)
    content = content or 65_536
    head = 12 if inner else 8
    found, blocks = [(head + 2 * cells, content)], []
    while block:
        following, size = struct.unpack_from(">HH", page, block)
        found.append((block + 4, block + size))
        blocks.append((block, block + size))
        if block < content or block + size > len(page) or 0 < following < block + size:
            raise LogError("a page of the log is damaged: its free blocks overlap")
        block = following
    if fragments:
        starts = struct.unpack_from(f">{cells}H", page, head)
        taken = [*blocks, *((start, start + _length(page, start)) for start in starts)]
        found += _between(sorted(taken), content, len(page), fragments)
    if any(start > end for start, end in found):
        raise LogError("a page of the log is damaged: its cells overlap")
    return found


def _between(
    taken: list[tuple[int, int]], start: int, end: int, bytes_: int
) -> list[tuple[int, int]]:
    """Return the gaps, which SQLite counts and does not keep account of."""
    gaps = []
    for first, last in [*taken, (end, end)]:
        if first != start:
            gaps.append((start, first))
        start = last
    if sum(last - first for first, last in gaps) != bytes_:
        raise LogError("a page of the log is damaged: its cells do not fill it")
    return gaps


def _length(page: bytes | bytearray, start: int) -> int:
    """Count the bytes of a cell on its own page."""
    kind, numbers = page[0], _varints(page, start + (4 if page[0] in (2, 5) else 0))
    payload, at = next(numbers)
    if kind == _INNER_TABLE:
        return at - start
    if kind == _LEAF_TABLE:
        _, at = next(numbers)  # the row's number
    room = len(page)
    most = room - 35 if kind == _LEAF_TABLE else (room - 12) * 64 // 255 - 23
    if payload > most:  # the rest is on pages of its own
        least = (room - 12) * 32 // 255 - 23
        part = least + (payload - least) % (room - 4)
        payload = (part if part <= most else least) + 4
    return max(at + payload - start, 4)


def _varints(page: bytes | bytearray, at: int) -> Iterator[tuple[int, int]]:
    """Read numbers of variable length, each with where it ends."""
    while True:
        value = 0
        for place in range(9):
            byte = page[at]
            at += 1
            value = value << 8 | byte if place == 8 else value << 7 | byte & 0x7F
            if byte < 0x80:
                break
        yield value, at
