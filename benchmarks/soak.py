"""Feed a service events for long, and see whether memory and the folder stay bounded.

    python benchmarks/soak.py [--events 1000000] [--keep 100000] [--config FILE.yaml]

With `--keep` all that may be bounded is: the log keeps so many events and ids of as many trimmed
ones, versions and decisions leave after 100 and 1000. Without it the log keeps all, as by default.
Events are examples, sent in lists, and predictions with labels. Printed over the events: resident
memory of both processes, the bytes of the folder, how far the trainer is behind, and at the end the
slope of each over the second half, by least squares, for each million events.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from running import Running, points

CONFIG = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
serve: {port: PORT}
"""
KEPT = """
release: {records: 100}
log: {keep: KEEP events, remember: KEEP, compact: 300, decisions: 1000}
"""
LIST = 200
NAMES = ("api MB", "trainer MB", "folder MB", "log MB")


def size(folder: Path) -> int:
    """Add up the files, also while some come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def send(client: httpx.Client, number: int, predicted: int) -> int:
    """Send a list of examples and some predictions with labels; return how many events."""
    x, y = points(LIST, number)
    rows = [
        {"x": a, "y": b, "subject": f"s{i % 50}"} for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    posted(client, "/examples", rows)
    answers = posted(client, "/predict", {"rows": x[:predicted]})["predictions"]
    labels = [{"prediction": answer["id"], "y": b} for answer, b in zip(answers, y, strict=False)]
    posted(client, "/labels", labels)
    return LIST + 2 * predicted


def posted(client: httpx.Client, path: str, body: object) -> dict[str, list[dict[str, str]]]:
    response = client.post(path, json=body)
    if not response.is_success:
        raise SystemExit(f"{path}: {response.status_code} {response.text[:300]}")
    found: dict[str, list[dict[str, str]]] = response.json()
    return found


def look(service: Running) -> list[float]:
    sizes = (service.rss("api"), service.rss("trainer"), size(service.state))
    return [one / 1e6 for one in (*sizes, size(service.state / "log"))]


def soak(service: Running, events: int, behind: int) -> None:
    """Feed the service, but not faster than it learns."""
    seen: list[tuple[int, list[float]]] = []
    sent, number, begun = 0, 0, time.monotonic()
    print(f"{'events':>9} {'a second':>9} " + " ".join(f"{name:>11}" for name in NAMES))
    with httpx.Client(base_url=service.url, timeout=60.0) as client:
        while sent < events:
            number += 1
            sent += send(client, number, predicted=50)
            while sent - service.status()["offset"] > behind:
                time.sleep(0.1)
            if sent >= (len(seen) + 1) * events / 20:
                seen.append((sent, look(service)))
                rate = sent / (time.monotonic() - begun)
                told = " ".join(f"{value:11.1f}" for value in seen[-1][1])
                print(f"{sent:9} {rate:9.0f} {told}", flush=True)
    half = seen[len(seen) // 2 :]
    at = np.array([count for count, _ in half]) / 1e6
    for index, name in enumerate(NAMES):
        slope = np.polyfit(at, [values[index] for _, values in half], 1)[0]
        print(f"{name}: {slope:+.1f} for each million events")
    print(f"the log holds {1e6 * seen[-1][1][3] / sent:.0f} bytes an event")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--behind", type=int, default=5_000, help="events the trainer may lag")
    parser.add_argument("--keep", type=int, help="events that the log keeps; by default all")
    parser.add_argument(
        "--config", type=Path, help="YAML with six features, four classes and `port: PORT`"
    )
    options = parser.parse_args()
    config = CONFIG if options.config is None else options.config.read_text("utf-8")
    if options.keep is not None:
        config += KEPT.replace("KEEP", str(options.keep))
    with tempfile.TemporaryDirectory() as folder, Running(Path(folder), config) as service:
        soak(service, options.events, options.behind)


if __name__ == "__main__":
    main()
