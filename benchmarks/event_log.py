"""Durable events a second: labels through the group commit, and one commit each.

python benchmarks/event_log.py [--seconds 5] [--folder DIR] [--clients 16] [--compact ROWS]

Every event counted is on disk (WAL, synchronous=FULL) and its offset known to the client that sent
it. A client keeps `in flight` labels on their way, as an HTTP server does for its open requests,
and sends the next when the oldest is acknowledged. The folder decides: use a disk, not a tmpfs.

With --compact: the longest wait of one append at a time while a log of so many rows, half of them
trimmed, is compacted; beside it with SQLite's own VACUUM of the same file, and with neither.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import apsw

from lifelong.serve.appender import Appender
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog


def label(client: int, number: int) -> Event:
    name = f"{client:04d}-{number:012d}"
    return Event("label", f"l-{name}", time.time(), {"y": number % 10}, about=f"p-{name}")


def run_clients(
    clients: int, seconds: float, client: Callable[[int, float], list[float]]
) -> tuple[int, float, list[float]]:
    """Return how many events were acknowledged, in how long, and how long each took."""
    waits: list[list[float]] = [[] for _ in range(clients)]
    start = time.perf_counter()

    def work(number: int) -> None:
        waits[number] = client(number, start + seconds)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    everything = [wait for part in waits for wait in part]
    return len(everything), taken, everything


def grouped(appender: Appender, in_flight: int) -> Callable[[int, float], list[float]]:
    def client(number: int, until: float) -> list[float]:
        sent: deque[tuple[float, Future[int]]] = deque()
        waits: list[float] = []
        count = 0
        while sent or time.perf_counter() < until:
            while len(sent) < in_flight and time.perf_counter() < until:
                sent.append((time.perf_counter(), appender.submit(label(number, count))))
                count += 1
            if sent:
                start, future = sent.popleft()
                future.result()
                waits.append(time.perf_counter() - start)
        return waits

    return client


def single(log: SQLiteLog) -> Callable[[int, float], list[float]]:
    def client(number: int, until: float) -> list[float]:
        waits: list[float] = []
        while (start := time.perf_counter()) < until:
            log.append([label(number, len(waits))])
            waits.append(time.perf_counter() - start)
        return waits

    return client


def measure(name: str, folder: Path, clients: int, seconds: float, in_flight: int | None) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as inside, SQLiteLog(inside, write=True) as log:
        if in_flight is None:
            count, taken, waits = run_clients(clients, seconds, single(log))
        else:
            with Appender(log) as appender:
                count, taken, waits = run_clients(clients, seconds, grouped(appender, in_flight))
        kept = log.last
        if kept != count or log.counts()["label"] != count:
            raise SystemExit(f"{name}: {count} were acknowledged, {kept} are in the log")
    cuts = statistics.quantiles(waits, n=100)
    rate = count / taken
    print(f"{name:<34}{count:>9}{rate:>11.0f}{cuts[49] * 1e3:>11.2f}{cuts[98] * 1e3:>11.2f}")
    return rate


def compact(folder: Path, rows: int) -> None:
    """Print how long appends wait while the file is compacted."""
    print(f"{'':<24}{'seconds':>9}{'appends':>9}{'p50 ms':>9}{'p99 ms':>9}{'longest ms':>12}")
    with tempfile.TemporaryDirectory(dir=folder) as inside, SQLiteLog(inside, write=True) as log:
        for start in range(0, rows, 1000):
            data = {"x": [0.123] * 64}
            ids = (f"{n * 7919 % rows:09d}-{n}" for n in range(start, start + 1000))
            log.append([Event("prediction", id, 0.0, data, subject=id) for id in ids])
        log.trim(rows // 2)
        size = log._store.path.stat().st_size / 1e6

        def vacuum() -> None:
            with log._store.lock:
                db = log._store.writer
                assert db is not None
                db.execute("VACUUM")
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

        works = {"nothing": lambda: time.sleep(2), "in steps": log.rewrite, "VACUUM": vacuum}
        for place, (name, work) in enumerate(works.items()):
            thread, waits = threading.Thread(target=work), list[float]()
            begun = time.perf_counter()
            thread.start()
            while thread.is_alive():
                start_ = time.perf_counter()
                log.append([label(place, len(waits))])
                waits.append(time.perf_counter() - start_)
            took = time.perf_counter() - begun
            cuts = [1000 * cut for cut in statistics.quantiles([*waits, waits[-1]], n=100)]
            longest = 1000 * max(waits)
            figures = f"{took:>9.1f}{len(waits):>9}{cuts[49]:>9.2f}{cuts[98]:>9.2f}{longest:>12.1f}"
            print(f"{name:<24}{figures}")
    print(f"a file of {size:.0f} MB; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--compact", type=int, default=0, metavar="ROWS")
    options = parser.parse_args()
    if options.compact:
        compact(options.folder, options.compact)
        return
    print(
        f"SQLite {apsw.sqlite_lib_version()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {options.clients} client threads, {options.seconds:g} s each"
    )
    print(f"{'':<34}{'events':>9}{'a second':>11}{'p50 ms':>11}{'p99 ms':>11}")
    here = (options.folder, options.clients, options.seconds)
    one = measure("one commit each", *here, None)
    for in_flight in (1, 4, 16):
        rate = measure(f"group commit, {in_flight} in flight each", *here, in_flight)
        print(f"{'':<34}{'':>9}{rate / one:>10.1f}x")


if __name__ == "__main__":
    main()
