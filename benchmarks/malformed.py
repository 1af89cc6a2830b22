"""Send broken bodies and headers to a real service: no 5xx, no growth in memory, still answering.

    python benchmarks/malformed.py [--requests 10000] [--seed 1]

Each request has something wrong: half a JSON, another type, a deep nest, a length that is none,
bytes that are no text, headers that are none. Memory is the api's resident set after a tenth of the
requests, and after all.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from chaos import CONFIG
from running import Running

from lifelong.serve.client import Client

PATHS = ("/predict", "/labels", "/examples", "/promote", "/rollback", "/erase", "/nowhere")
WHOLE: dict[str, dict[str, Any]] = {
    "/predict": {"x": [0.0] * 6, "id": "p-1", "subject": "s"},
    "/labels": {"prediction": "p-1", "y": 1},
    "/examples": {"x": [0.0] * 6, "y": 1, "id": "e-1"},
    "/promote": {"version": 1, "reason": "r"},
    "/rollback": {"to": 1, "reason": "r"},
    "/erase": {"subject": "s"},
    "/nowhere": {},
}
VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    2**70,
    1e400,
    "",
    "x" * 300,
    [],
    [[]],
    {},
    "\ud800",
    "\x00",
    [1] * 50,
)


def body(chance: random.Random, path: str) -> bytes:
    """Make a body that is not what the route takes."""
    whole = WHOLE[path]
    text = json.dumps(whole).encode()
    kind = chance.randrange(7)
    if kind == 0:
        return text[: chance.randrange(max(len(text), 1))]
    if kind == 1:
        place = chance.randrange(len(text))
        return text[:place] + bytes([chance.randrange(256)]) + text[place + 1 :] + b"}"
    if kind == 2:
        return chance.choice([b"[", b'{"x":', b'[{"y":']) * chance.choice([10, 1000, 100_000])
    if kind == 3:
        return chance.randbytes(chance.randrange(200))
    if kind == 4:
        return json.dumps({**whole, "unknown": chance.choice(VALUES)}).encode()
    if kind == 5 and whole:
        name = chance.choice(sorted(whole))
        rest = {key: value for key, value in whole.items() if key != name}
        return json.dumps({**rest, name: chance.choice([{}, [[]], -1.5, "\ud800", 2**70])}).encode()
    return json.dumps(chance.choice(VALUES)).encode()


def request(chance: random.Random) -> bytes:
    """Make a request that is wrong in its body, its headers or both."""
    path = chance.choice(PATHS)
    sent = body(chance, path)
    headers = [f"Host: 127.0.0.1\r\nContent-Length: {len(sent)}", "Content-Type: application/json"]
    kind = chance.randrange(12)
    if kind == 0:
        headers[1] = chance.choice(
            ["Content-Type: text/plain", "Content-Type: \xff", "Content-Type:"]
        )
    elif kind == 1:
        length = chance.choice(["-1", "abc", "9" * 30, "1e3", "", "0x10", "+5"])
        headers[0] = f"Host: 127.0.0.1\r\nContent-Length: {length}"
    elif kind == 2:
        headers.append(f"X-Long: {'y' * chance.choice([10_000, 70_000])}")
    elif kind == 3:
        headers += [f"X-{i}: {i}" for i in range(300)]
    elif kind == 4:
        headers.append(chance.choice(["X-API-Key: \xfe\xff", "Authorization: Bearer", ": empty"]))
    elif kind == 5:
        headers.append("Transfer-Encoding: chunked")
    elif kind == 6:
        headers.append("Content-Encoding: gzip")
    method = chance.choice(["POST"] * 20 + ["GET", "PUT", "BREW", "\xff"])
    head = f"{method} {path} HTTP/1.1\r\n" + "\r\n".join(headers) + "\r\nConnection: close\r\n\r\n"
    return head.encode("latin-1") + sent


def status_of(port: int, sent: bytes, more: bool = False) -> str:
    """Send bytes, and return the status of the answer; "closed" or "late" where none comes.

    Args:
        port, sent: where to, and what.
        more: whether to leave open that more may come. Where a request is broken its answer comes
            at once; one that happens to be whole takes work, and its answer goes to nobody if the
            connection is half closed by then.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(sent)
            if not more:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has answered and closed already
            pass
        try:
            parts = connection.recv(4096).split(b" ", 2)
        except TimeoutError:  # open still: the machine is busy, or somebody waits for ever
            return "late"
        except OSError:
            return "closed"
    return parts[1].decode("latin-1") if len(parts) > 1 else "closed"


def run(service: Running, requests: int, seed: int) -> tuple[Counter[str], int, int]:
    """Return how many answers there were of each status, and the memory before and after."""
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    before = service.rss("api")
    for number in range(requests):
        sent = request(chance)
        status = status_of(service.port, sent)
        if status in ("closed", "late"):
            again = status_of(service.port, sent, more=True)
            print(f"{status}: request {number}, {sent[:300]!r}; sent again: {again}")
            status = again
        if status.startswith("5"):
            raise SystemExit(f"answered with {status}: {sent[:500]!r}")
        found[status] += 1
        if number == requests // 10:
            before = service.rss("api")
    return found, before, service.rss("api")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Running(Path(folder), CONFIG) as service:
        pid = service.pid("api")
        found, before, after = run(service, options.requests, options.seed)
        with Client(service.url) as client:
            client.predict([0.0] * 6)
        same = service.pid("api") == pid
    print(f"{options.requests} requests: {dict(sorted(found.items()))}")
    print(
        f"memory of the api: {before / 1e6:.1f} MB after a tenth, {after / 1e6:.1f} MB at the end"
    )
    print("the api lives on" if same else "the api DIED")
    grown = after - before > 10e6
    return 1 if grown or not same else 0


if __name__ == "__main__":
    sys.exit(main())
