"""Time the memory: rows taken in, rows drawn, small adds, and a million rows in files.

    python benchmarks/memory.py            everything, about a minute
    python benchmarks/memory.py --no-disk  without the files (800 MB in a temporary folder)

One thread. Rows are 28 x 28 bytes with a label, a task and an id. Each figure is a median.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from lifelong.memory import Memory


def columns(rows: int) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(rows)
    return {
        "x": torch.randint(256, (rows, 28, 28), dtype=torch.uint8, generator=chance),
        "y": torch.randint(10, (rows,), generator=chance),
        "task": torch.zeros(rows, dtype=torch.int64),
        "key": torch.arange(rows),
    }


def seconds(call: Callable[[], object], calls: int, repeats: int = 9) -> float:
    """Take the median over repeats of the mean time of a call."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        for _ in range(calls):
            call()
        times.append((perf_counter() - start) / calls)
    return median(times)


def full(policy: str, capacity: int) -> tuple[Memory, torch.Generator]:
    memory, chance = Memory(capacity, policy), torch.Generator().manual_seed(0)
    offered = columns(10_000)
    while memory.seen < 1.2 * capacity:
        memory.add(offered, offered["y"], chance)
    return memory, chance


def time_adds(policy: str, capacity: int, batch: int) -> tuple[float, float]:
    """Rows a second while filling from empty, and once full."""
    offered = columns(batch)
    group, chance = offered["y"], torch.Generator().manual_seed(0)
    batches = capacity // batch
    fills = []
    for _ in range(max(3, 200 // max(batches, 1)) if batches else 0):
        memory = Memory(capacity, policy)
        memory.add(offered, group, chance)  # allocates
        for slot in memory._rows.columns.values() if memory._rows else ():
            slot.fill_(1)  # the system's first touch of the pages is not what is timed
        start = perf_counter()
        for _ in range(batches - 1):
            memory.add(offered, group, chance)
        if batches > 1:
            fills.append((batches - 1) * batch / (perf_counter() - start))
    memory, chance = full(policy, capacity)
    calls = max(200_000 // batch // 9, 3)
    return (
        median(fills) if fills else float("nan"),
        batch / seconds(lambda: memory.add(offered, group, chance), calls),
    )


def memory_speed() -> None:
    print(f"{'policy':10}{'capacity':>9}{'batch':>7}{'filling':>14}{'full':>14}   million rows/s")
    for policy in ("reservoir", "ring", "balanced"):
        for capacity in (500, 10_000, 100_000):
            for batch in (128, 1024):
                filling, when_full = time_adds(policy, capacity, batch)
                print(
                    f"{policy:10}{capacity:9}{batch:7}{filling / 1e6:14.2f}{when_full / 1e6:14.2f}"
                )
    print(f"\n{'policy':10}{'capacity':>9}{'draw 128':>14}{'add 10':>14}   microseconds")
    for policy in ("reservoir", "ring", "balanced"):
        for capacity in (500, 10_000, 100_000):
            memory, chance = full(policy, capacity)
            offered = columns(10)
            draw = seconds(lambda: memory.draw(128, chance), 500)  # noqa: B023
            add = seconds(lambda: memory.add(offered, offered["y"], chance), 500)  # noqa: B023
            print(f"{policy:10}{capacity:9}{draw * 1e6:14.1f}{add * 1e6:14.1f}")


def resident() -> dict[str, int]:
    """Read this process's memory in megabytes, as the system counts it."""
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file]
    return {
        line[0][:-1]: int(line[1]) // 1024
        for line in lines
        if line[0].startswith(("VmR", "VmH", "Rss"))
    }


def disk(rows: int) -> None:
    print(f"\n{rows} rows of 784 bytes in files; before: {resident()} MB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        memory, chance = Memory(rows, path=folder), torch.Generator().manual_seed(0)
        offered = columns(1000)
        start = perf_counter()
        while len(memory) < rows:
            memory.add(offered, None, chance)
        print(
            f"filled: {rows / (perf_counter() - start) / 1e6:.2f} million rows/s, {resident()} MB"
        )
        add = seconds(lambda: memory.add(offered, None, chance), 100)
        draw = seconds(lambda: memory.draw(128, chance), 300)
        print(
            f"random: add {1000 / add / 1e6:.2f} million rows/s, draw 128 {draw * 1e6:.0f} "
            f"microseconds, {resident()} MB (VmHWM is the most there ever was)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-disk", action="store_true")
    parser.add_argument("--disk-rows", type=int, help="only the files, with so many rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.disk_rows:
        disk(arguments.disk_rows)
        return
    print(f"torch {torch.__version__}, numpy {np.__version__}, one thread\n")
    memory_speed()
    if not arguments.no_disk:  # in a process of its own, to see what it alone takes
        subprocess.run([sys.executable, __file__, "--disk-rows", "1000000"], check=True)


if __name__ == "__main__":
    main()
