"""Time single-row predictions over HTTP against a route of FastAPI that does nothing.

    python benchmarks/serving.py [--seconds 3] [--clients 16] [--threaded]
                                 [--log memory|async|durable] [--learning]

Each app runs under uvicorn (uvloop, httptools) in its own process on one thread; the model is an
MLP 64-100-100-10. The load comes from wrk where it is on PATH, else from a client on raw sockets
in this process: so many connections, each with one request at a time. Rounds alternate; the
figures are medians of the rounds.

With --learning, rounds without and with a trainer alternate: another process, which learns from a
log at full speed and writes its checkpoints, as a service's own does. It needs a core of its own,
and so do the client and the app.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

SIZE = 64
BODY = json.dumps({"x": [round(0.01 * i, 2) for i in range(SIZE)]}).encode()
LEARNING_GOAL = "goal: p99 with the trainer at most x1.5 of that without"
GOAL = "goal: at least 1500 requests/s, p99 below 20 ms, p50 at most x2 of the empty route"


@dataclass(frozen=True)
class Figures:
    rate: float
    """Requests a second."""
    p50: float
    """Milliseconds."""
    p99: float


def serve(kind: str, port: int, log: str, threaded: bool) -> None:
    import torch
    import uvicorn

    from lifelong.serve.app import settle
    from lifelong.serve.wire import OnePiece

    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        app = empty_app() if kind == "empty" else predicting_app(log, threaded, stack)
        settle()
        uvicorn.run(
            app,
            port=port,
            loop="uvloop",
            http="httptools" if kind == "empty" else OnePiece,
            log_level="warning",
            access_log=False,
        )


def empty_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/predict")
    async def predict() -> dict[str, str]:
        return {}

    return app


def predicting_app(log: str, threaded: bool, stack: contextlib.ExitStack) -> Any:
    import torch
    from torch import nn

    from lifelong.serve.app import create_app
    from lifelong.serve.auth import Key, Keys, hash_of
    from lifelong.serve.parts import Parts
    from lifelong.serve.schema import Schema
    from lifelong.serve.snapshot import Holder, Snapshot

    torch.manual_seed(0)
    sizes = (SIZE, 100, 100, 10)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    holder = Holder(Snapshot(1, nn.Sequential(*layers[:-1])))
    keys = Keys([Key("bench", frozenset({"predict"}), hash_of("bench"))])
    submit, find = in_memory() if log == "memory" else appended(stack)
    schema = Schema((SIZE,), classes=10)
    answers: Any = "async" if log == "async" else "durable"
    parts = Parts(schema, holder, submit, find, keys=keys, threaded=threaded, log=answers)
    return create_app(parts)


def in_memory() -> Any:
    def submit(_: Any) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(1)
        return future

    return submit, lambda _: None


def appended(stack: contextlib.ExitStack) -> Any:
    from lifelong.serve.appender import Appender
    from lifelong.serve.log import SQLiteLog

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    log = stack.enter_context(SQLiteLog(folder, write=True))
    appender = stack.enter_context(Appender(log))
    return appender.send, log.find


def learn(going: Any, steps: Any) -> None:
    """Learn from the same log over and over, as fast as that goes, while `going` is set."""
    import torch

    from lifelong import DERpp, Learner
    from lifelong.nets import MLP
    from lifelong.serve.events import Event
    from lifelong.serve.learning import NICE, Checked
    from lifelong.serve.log import SQLiteLog
    from lifelong.serve.plan import Plan
    from lifelong.serve.schema import Schema
    from lifelong.serve.trainer import Trainer

    torch.set_num_threads(1)
    os.nice(NICE)

    def make() -> Learner:
        net = MLP(SIZE, hidden=(100, 100), outputs=10)
        return Learner(net, torch.optim.SGD(net.parameters(), lr=0.05), [DERpp(1000)])

    chance = torch.Generator().manual_seed(0)
    rows = torch.rand(20_000, SIZE, generator=chance).round(decimals=3).tolist()
    with tempfile.TemporaryDirectory() as place, SQLiteLog(Path(place) / "log", write=True) as log:
        for start in range(0, len(rows), 1000):
            part = enumerate(rows[start : start + 1000], start)
            log.append([Event("example", f"e{n}", 0.0, {"x": x, "y": n % 10}) for n, x in part])
        checks, round_ = Checked(Schema((SIZE,), classes=10)), 0
        steps.value = 0
        while True:
            round_ += 1
            folder, plan = Path(place) / str(round_), Plan(deviations=0.0)
            trainer = Trainer(folder, log, make, checks, plan, classes=range(10))
            going.wait()
            while trainer.step(50):
                steps.value += 50
                going.wait()
            shutil.rmtree(folder)


@contextlib.contextmanager
def training() -> Iterator[tuple[Any, Any]]:
    """Run a trainer in a process of its own; give what lets it go on, and the events it took."""
    context = multiprocessing.get_context("spawn")
    going, taken = context.Event(), context.Value("l", -1)
    process = context.Process(target=learn, args=(going, taken), daemon=True)
    process.start()
    try:
        until = time.monotonic() + 120
        while taken.value < 0:
            if time.monotonic() > until or not process.is_alive():
                sys.exit("the trainer did not start")
            time.sleep(0.1)
        yield going, taken
    finally:
        process.terminate()
        process.join(10)


def beside_a_trainer(port: int, clients: int, seconds: float, rounds: int) -> None:
    """Print p50 and p99 of predictions without and with a trainer at full speed."""
    found: dict[bool, list[Figures]] = {False: [], True: []}
    events = 0
    with training() as (going, taken):
        load(port, clients, 0.5)
        for _ in range(rounds):
            for learns in found:
                before = taken.value
                if learns:
                    going.set()
                    time.sleep(0.5)
                found[learns].append(load(port, clients, seconds))
                going.clear()
                events += taken.value - before
                time.sleep(0.3)
    for learns, all in found.items():
        names = ("rate", "p50", "p99")
        one = Figures(*(median(getattr(figures, name) for figures in all) for name in names))
        told = "learning" if learns else "alone"
        print(f"{told:8} {one.rate:7.0f} requests/s  p50 {one.p50:5.2f} ms  p99 {one.p99:5.2f} ms")
    alone, beside = (median(one.p99 for one in found[learns]) for learns in (False, True))
    print(
        f"p99 x{beside / alone:.2f}; the trainer took in {events / rounds / seconds:.0f} events/s"
    )
    print(f"{LEARNING_GOAL}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


@contextlib.contextmanager
def running(kind: str, log: str, threaded: bool) -> Iterator[int]:
    """Run an app in a process of its own; give its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(kind, port, log, threaded))
    process.start()
    try:
        until = time.monotonic() + 60
        while process.is_alive():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if time.monotonic() > until:
                sys.exit(f"the app {kind!r} did not start in 60 seconds")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.join(10)


def load(port: int, clients: int, seconds: float) -> Figures:
    if shutil.which("wrk"):
        return load_with_wrk(port, clients, seconds)
    return asyncio.run(load_here(port, clients, seconds))


def load_with_wrk(port: int, clients: int, seconds: float) -> Figures:
    script = (
        f"wrk.method='POST' wrk.body='{BODY.decode()}' "
        "wrk.headers['Content-Type']='application/json' wrk.headers['X-API-Key']='bench' "
        "done=function(s,l,r) io.write(string.format('FIGURES %d %d %d %d %d\\n', s.requests, "
        "s.duration, l:percentile(50), l:percentile(99), s.errors.status)) end"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "-s", file.name]
        url = f"http://127.0.0.1:{port}/predict"
        text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    numbers = text.split("FIGURES")[1].split()
    requests, microseconds, p50, p99, errors = (int(number) for number in numbers[:5])
    if errors:
        sys.exit(f"{errors} requests were not answered with 200")
    return Figures(requests / microseconds * 1e6, p50 / 1000, p99 / 1000)


class Asking(asyncio.Protocol):
    """One connection: the next request goes out as soon as the answer is in."""

    request = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: bench\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    )

    def __init__(self, times: list[float]) -> None:
        self.times, self.data, self.sent = times, b"", 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.data = b""
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"not answered with 200: {self.data[:300]!r}")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self.times.append(time.perf_counter() - self.sent)
            self.ask()


async def load_here(port: int, clients: int, seconds: float) -> Figures:
    loop, times = asyncio.get_running_loop(), list[float]()
    start = time.perf_counter()
    connections = [
        await loop.create_connection(lambda: Asking(times), "127.0.0.1", port)
        for _ in range(clients)
    ]
    await asyncio.sleep(seconds)
    took = time.perf_counter() - start
    for transport, _ in connections:
        transport.abort()
    ranked = sorted(times)
    at = [1000 * ranked[int(len(ranked) * part)] for part in (0.5, 0.99)]
    return Figures(len(times) / took, *at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--log", choices=("memory", "async", "durable"), default="durable")
    parser.add_argument("--threaded", action="store_true")
    parser.add_argument("--learning", action="store_true")
    options = parser.parse_args()
    if options.learning:
        with running("predict", options.log, options.threaded) as port:
            beside_a_trainer(port, options.clients, options.seconds, options.rounds)
        return
    rounds: dict[str, list[Figures]] = {"empty": [], "predict": []}
    with (
        running("empty", options.log, False) as empty,
        running("predict", options.log, options.threaded) as predict,
    ):
        ports = {"empty": empty, "predict": predict}
        for port in ports.values():
            load(port, options.clients, 0.5)
        for _ in range(options.rounds):
            for kind, port in ports.items():
                rounds[kind].append(load(port, options.clients, options.seconds))
    middle = {
        kind: Figures(
            *(median(getattr(one, name) for one in all) for name in ("rate", "p50", "p99"))
        )
        for kind, all in rounds.items()
    }
    for kind, one in middle.items():
        print(f"{kind:8} {one.rate:7.0f} requests/s  p50 {one.p50:5.2f} ms  p99 {one.p99:5.2f} ms")
    ours, none = middle["predict"], middle["empty"]
    print(f"predict / empty: p50 x{ours.p50 / none.p50:.2f}, rate x{ours.rate / none.rate:.2f}")
    print(GOAL)


if __name__ == "__main__":
    main()
