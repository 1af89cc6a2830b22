"""Swap what is served under load, and time how what is learned comes to be served and undone.

    python benchmarks/swaps.py [--swaps 50] [--seconds 20]

Swaps: versions are promoted one after the other while wrk asks; no request may fail, and p99 is
set against that of the same load without swaps. Rollback: from the request to the first answer of
the version before. Labels: from a label's acknowledgement to the first answer by a version that
has seen it, with the default settings, while a new model learns; since a candidate has to show on
labelled rows that it is better, at two rates of labels. Poison: wrong labels only, for some
seconds; timed is how long after their end answers are as right as before. Then the same with a gate
that lets everything through, so that a version that learned them serves: timed is how long from its
first answers until the version before is back by itself, and until answers are as right.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from running import Running, points

from lifelong.serve.client import Client, ServiceError
from lifelong.serve.config import Config
from lifelong.serve.outside import until
from lifelong.serve.registry import Registry
from lifelong.serve.weights import weights_of

QUIET = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
release: {mode: manual, every: 1000000}
serve: {port: PORT}
"""
DEFAULTS = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
serve: {port: PORT}
"""


FAST = 4
"""How many times as many labels a second come in the faster of two streams."""
OPEN = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
train: {deviations: 0}
gate: {forgetting: 0.99}
serve: {port: PORT}
"""


def wrk(service: Running, seconds: int) -> tuple[int, float, float]:
    """Return how many requests were answered, and p50 and p99 in milliseconds; none may fail."""
    body = json.dumps({"x": [0.0] * 6})
    script = service.folder / "load.lua"
    script.write_text(
        f"wrk.method='POST' wrk.body='{body}' wrk.headers['Content-Type']='application/json' "
        "done=function(s,l,r) local e=s.errors io.write(string.format('FIGURES %d %d %d %d\\n', "
        "s.requests, l:percentile(50), l:percentile(99), "
        "e.status+e.connect+e.read+e.write+e.timeout)) end"
    )
    words = [
        "wrk",
        "-t1",
        "-c8",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
        f"{service.url}/predict",
    ]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    requests, p50, p99, failed = map(int, text.split("FIGURES")[1].split()[:4])
    if failed:
        raise SystemExit(f"{failed} of {requests} requests failed")
    return requests, p50 / 1000, p99 / 1000


def versions(service: Running, count: int) -> list[int]:
    """Register models that differ, and return their numbers."""
    learner = Config.read(service.path).factory()()
    registry, numbers = Registry(service.state), list[int]()
    for number in range(count):
        with torch.no_grad():
            for weights in learner.model.parameters():
                weights.add_(0.1)
        found = registry.register(
            weights_of(learner), None, parent=1, first_offset=1, last_offset=0, metrics={},
            id=f"made-{number}",
        )  # fmt: skip
        numbers.append(found.number)
    return numbers


def swap(service: Running, swaps: int, seconds: int) -> None:
    """Print p99 under the same load without and with swaps."""
    numbers = versions(service, 2)
    wrk(service, 2)
    steady, moving, took = [], [], list[float]()
    for _ in range(3):
        steady.append(wrk(service, seconds))
        stop = threading.Event()

        def promote(stop: threading.Event = stop) -> None:
            with Client(service.url, timeout=30.0) as client:
                for number in range(swaps):
                    if stop.is_set():
                        return
                    start = time.perf_counter()
                    client.promote(numbers[number % 2], "a swap")
                    took.append(time.perf_counter() - start)
                    stop.wait(max(0.0, seconds / swaps - took[-1]))

        thread = threading.Thread(target=promote)
        thread.start()
        moving.append(wrk(service, seconds))
        stop.set()
        thread.join()
    one, other = (statistics.median(p99 for _, _, p99 in part) for part in (steady, moving))
    rate = statistics.median(requests for requests, _, _ in moving) / seconds
    print(f"{len(took)} swaps, {rate:.0f} requests/s, none failed")
    print(f"p99 {one:.1f} ms steady, {other:.1f} ms during swaps: x{other / one:.2f} (goal: 1.5)")
    print(f"a promotion takes {1000 * statistics.median(took):.0f} ms")


def roll_back(service: Running) -> None:
    """Print how long it takes until the version before answers."""
    took = []
    with Client(service.url, timeout=30.0) as client:
        for _ in range(5):
            now = client.predict([0.0] * 6).version
            start = time.perf_counter()
            to = client.rollback("a test")["version"]
            while (found := client.predict([0.0] * 6).version) == now:
                pass
            took.append(time.perf_counter() - start)
            assert found == to, (found, to)
            client.promote(now, "again")
    print(f"rollback: {1000 * statistics.median(took):.0f} ms, at most {1000 * max(took):.0f} ms")


class Stream:
    """Labelled rows at a steady rate, and a watch on which version answers from when on."""

    def __init__(self, service: Running, rate: float) -> None:
        self.service, self.rate = service, rate
        self.wrong = False
        self.labels: list[tuple[float, int]] = []
        """When each label was acknowledged, and its offset."""
        self.served: list[tuple[float, int]] = []
        """When each version first answered after another."""
        self.right: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def accuracy(self, since: float) -> float:
        found = [right for at, right in self.right if at >= since]
        return float(np.mean(found)) if found else 0.0

    def lately(self, bound: float) -> bool:
        """Tell whether so many of the newest 100 answers are right."""
        newest = [right for _, right in self.right[-100:]]
        return len(newest) == 100 and float(np.mean(newest)) >= bound

    def _run(self) -> None:
        count, due = 0, time.monotonic()
        with Client(self.service.url) as client:
            while not self._stop.is_set():
                [x], [y] = points(1, count)
                count += 1
                answer = client.predict(x)
                now = time.monotonic()
                if not self.served or self.served[-1][1] != answer.version:
                    self.served.append((now, answer.version))
                self.right.append((now, answer.label == y))
                sent = (y + 1) % 4 if self.wrong else y
                try:
                    offset = client.label(answer.id, sent)
                except ServiceError as error:
                    raise SystemExit(f"a label was refused: {error}") from error
                self.labels.append((time.monotonic(), offset))
                due += 1 / self.rate
                self._stop.wait(max(0.0, due - time.monotonic()))


def delays(stream: Stream, registry: Registry) -> list[float]:
    """Return the seconds from each label to the first answer by a version that has seen it."""
    seen = [(at, registry.get(number).last_offset) for at, number in stream.served]
    found = []
    for at, offset in stream.labels:
        after = [when - at for when, last in seen if when >= at and last >= offset]
        if after:
            found.append(after[0])
    return found


def learn(service: Running, rate: float, seconds: int, wrong: bool) -> None:
    """Print how long labels take to be served, and maybe a burst of wrong ones to be undone."""
    stream = Stream(service, rate)
    try:
        good = partial(stream.lately, 0.85)
        print(f"{rate:.0f} labels/s: from nothing to 85 % right in {waited(good):.1f} s")
        time.sleep(seconds)
        found = delays(stream, Registry(service.state))
        p50, p99 = np.quantile(found, [0.5, 0.99])
        print(f"label to served weights meanwhile: p50 {p50:.1f} s, p99 {p99:.1f} s")
        print(f"  ({len(found)} of {len(stream.labels)} labels; later versions were no better)")
        if wrong:
            poison(stream, seconds)
    finally:
        stream.stop()


def waited(done: Callable[[], bool]) -> float:
    start = time.monotonic()
    until(done, 300, "answers as good as that")
    return time.monotonic() - start


def poison(stream: Stream, seconds: int) -> None:
    """Print what a burst of wrong labels does, and when it is undone."""
    before = stream.accuracy(time.monotonic() - 3)
    begun, swaps = time.monotonic(), len(stream.served)
    stream.wrong = True
    time.sleep(seconds)
    stream.wrong = False
    during = stream.accuracy(begun)
    took = waited(partial(stream.lately, before - 0.05))
    swapped = len(stream.served) - swaps
    print(f"wrong labels for {seconds} s: right before {before:.2f}, during {during:.2f}")
    print(f"  as good as before {took:.1f} s after their end, with {swapped} swaps")


def get_through(service: Running, rate: float) -> None:
    """Print how long it takes until wrong labels that got through the gate are undone."""
    stream = Stream(service, rate)
    try:
        until(partial(stream.lately, 0.9), 300, "answers as good as that")
        known = promoted(service)  # so that the one before is good, too
        until(lambda: stream.served[-1][1] == known, 60, "the newest version to be served")
        until(partial(stream.lately, 0.9), 300, "answers as good as that")
        begun, known = time.monotonic(), decisions(service, "before=1000000000&limit=1")[0]["n"]
        stream.wrong = True
        swaps = len(stream.served)
        until(lambda: len(stream.served) > swaps, 300, "a version that learned them")
        through = time.monotonic()
        stream.wrong = False
        reason = until(partial(rolled_back, service, known), 300, "a rollback")
        back = time.monotonic()
        until(partial(stream.lately, 0.9), 300, "answers as good as before")
        good = time.monotonic()
    finally:
        stream.stop()
    print(f"a version that learned wrong labels answers {through - begun:.1f} s after their")
    print("  beginning; then they end")
    print(f"  rolled back {back - through:.1f} s later: {reason}")
    print(f"  9 of 10 right again {good - through:.1f} s later")


def promoted(service: Running) -> int:
    """Promote the newest version by hand, and return its number."""
    url = f"{service.url}/versions"

    def newer() -> int:
        told = httpx.get(url).json()
        newest = int(told["versions"][-1]["version"])
        return newest if newest > told["champion"] else 0

    number = until(newer, 60, "another version")
    with Client(service.url, timeout=30.0) as client:
        client.promote(number, "it is as good")
    return number


def rolled_back(service: Running, known: int) -> str:
    """Return why something was rolled back since an entry of the audit, if it was."""
    found = decisions(service, f"after={known}")
    return "".join(e["details"]["reason"] for e in found if e["action"] == "rollback")


def decisions(service: Running, page: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{service.url}/audit?{page}").json()["entries"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=50.0, help="labels a second")
    parser.add_argument("--only", choices=("through",), help="wrong labels that get through")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only == "through":
        with tempfile.TemporaryDirectory() as folder, Running(Path(folder), OPEN) as service:
            get_through(service, options.rate)
        return
    with tempfile.TemporaryDirectory() as folder, Running(Path(folder), QUIET) as service:
        swap(service, options.swaps, options.seconds)
        roll_back(service)
    for rate in (FAST * options.rate, options.rate):
        with tempfile.TemporaryDirectory() as folder, Running(Path(folder), DEFAULTS) as service:
            learn(service, rate, options.seconds, wrong=rate == options.rate)
    with tempfile.TemporaryDirectory() as folder, Running(Path(folder), OPEN) as service:
        get_through(service, options.rate)


if __name__ == "__main__":
    main()
