"""What an event log is crashed with: a disk that loses power, and processes to be killed.

python log_crash.py append FOLDER WRITER    appends one event after the other, for ever
python log_crash.py group FOLDER WRITER     the same from eight threads through an Appender
python log_crash.py hold FOLDER WRITER      opens the log and waits for its stdin to end
python log_crash.py limit FOLDER WRITER     fills the log up to a limit of the file's size
python log_crash.py trim FOLDER WRITER      appends, and trims all but the newest, for ever

Each acknowledged event is a line: its offset and its id.
"""

import os
import resource
import sys
import threading
import types
from pathlib import Path

import apsw

if __name__ == "__main__":
    # The package without its __init__, which brings torch: a process then starts in 0.2 s, not 3 s.
    package = types.ModuleType("lifelong")
    package.__path__ = [str(Path(__file__).parents[2] / "lifelong")]
    sys.modules["lifelong"] = package

from lifelong.core.errors import LogError
from lifelong.serve.appender import Appender
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog


class Disk(apsw.VFS):
    """SQLite's default file system, which notes what is written and when it is synced.

    `done` holds (what, file name, ...): write, truncate, sync, delete, and what a test adds.
    `room` is how many bytes can still be written before the disk is full.
    """

    def __init__(self):
        self.done = []
        self.room = float("inf")
        super().__init__("noting-disk", "", makedefault=True)

    def xOpen(self, name, flags):
        return DiskFile(self, name, flags)

    def xDelete(self, name, sync):
        super().xDelete(name, sync)
        self.done.append(("delete", os.path.basename(name), sync))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.unregister()


class DiskFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.disk = disk
        self.name = os.path.basename(path) if path else None  # None: a temporary file
        super().__init__("unix", name, flags)

    def note(self, what, *details):
        if self.name:
            self.disk.done.append((what, self.name, *details))

    def xWrite(self, data, offset):
        fits = data[: int(min(self.disk.room, len(data)))]
        self.disk.room -= len(fits)
        super().xWrite(fits, offset)
        self.note("write", offset, bytes(fits))
        if len(fits) < len(data):
            raise apsw.FullError("no room")

    def xTruncate(self, size):
        super().xTruncate(size)
        self.note("truncate", size)

    def xSync(self, flags):
        super().xSync(flags)
        self.note("sync")


def after_power_loss(done, chance):
    """Return the files' contents after power was lost, as a dict.

    What was synced is there. Of each write and truncation since then all, nothing or some sectors
    are; of a file whose folder was not synced since it was made, or removed, either may be so.
    `chance` decides (a random.Random); None loses everything that can be lost.
    """
    files, pending, removed, named = {}, {}, {}, set()
    for what, name, *details in done:
        if what in ("write", "truncate"):
            files.setdefault(name, bytearray())
            pending.setdefault(name, []).append((what, *details))
        elif what == "sync":
            for change in pending.pop(name, []):
                apply(files[name], *change)
            if not name.endswith(".db"):  # with a new journal or WAL, SQLite syncs the folder
                named |= set(files)
        elif what == "folder":
            named |= set(files)
            removed.clear()
        elif what == "delete":
            removed[name] = files.pop(name, bytearray())
            pending.pop(name, None)
            named.discard(name)
            if details[0]:
                removed.clear()
    for name, changes in pending.items():
        for change in changes if chance else ():
            tear(files[name], chance, *change)
    kept = {name for name in files if name in named or (chance and chance.random() < 0.5)}
    back = {name for name in removed if not chance or chance.random() < 0.5}
    return {name: removed[name] for name in back} | {name: files[name] for name in kept}


def apply(content, what, at, data=b""):
    if what == "truncate":
        del content[at:]
    else:
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data


def tear(content, chance, what, at, data=b""):
    fate = chance.choice(["whole", "lost", "torn"])
    if fate == "whole" or (fate == "torn" and what == "truncate"):
        apply(content, what, at, data)
    elif fate == "torn":
        for start in range(0, len(data), 512):
            if chance.random() < 0.5:
                apply(content, what, at + start, data[start : start + 512])


def event(id, size=300):
    return Event("example", id, 0.0, {"x": "x" * size, "y": 1}, subject=id)


def say(offset, id):
    # One write, so that a kill cannot leave half a line in a buffer.
    os.write(1, f"{offset} {id}\n".encode())


def append(folder, writer):
    with SQLiteLog(folder, write=True) as log:
        count = 0
        while True:
            ids = [f"{writer}-{count + i}" for i in range(1 + count % 3)]
            for offset, id in zip(log.append([event(id) for id in ids]), ids, strict=True):
                say(offset, id)
            count += len(ids)


def group(folder, writer):
    log = SQLiteLog(folder, write=True)
    appender = Appender(log)

    def produce(thread):
        count = 0
        while True:
            id = f"{writer}-{thread}-{count}"
            say(appender.submit(event(id)).result(), id)
            count += 1

    for thread in range(8):
        threading.Thread(target=produce, args=(thread,)).start()


def hold(folder, writer):
    with SQLiteLog(folder, write=True) as log:
        say(log.append([event(writer)])[0], writer)
        sys.stdin.read()


def limit(folder, writer):
    with SQLiteLog(folder, write=True) as log:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        count = 0
        try:
            while True:
                ids = [f"{writer}-{count}", f"{writer}-{count + 1}"]
                for offset, id in zip(log.append([event(i, 9000) for i in ids]), ids, strict=True):
                    say(offset, id)
                count += 2
        except LogError as error:
            print("full", error, flush=True)
        assert log.last == count, (log.last, count)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        say(log.append([event(f"{writer}-more")])[0], f"{writer}-more")


def trim(folder, writer):
    with SQLiteLog(folder, write=True) as log:
        after, count = 0, 0
        while True:
            ids = [f"{writer}-{count + i}" for i in range(50)]
            for offset, id in zip(log.append([event(id) for id in ids]), ids, strict=True):
                say(offset, id)
            count += len(ids)
            log.mark(log.last - 40)
            for _ in range(5):
                after, _ = log.sweep(after or 0, 20)
            log.forget_ids(300, 50)
            log.give_back(4)


if __name__ == "__main__":
    {"append": append, "group": group, "hold": hold, "limit": limit, "trim": trim}[sys.argv[1]](
        *sys.argv[2:]
    )
