"""Time the memory: rows taken in, rows drawn, small adds, and a million rows in files.

    python benchmarks/memory.py            everything, about a minute
    python benchmarks/memory.py --no-disk  without the files (800 MB in a temporary folder)
    python benchmarks/memory.py --rows-only    how rows are stored smaller, and chosen: seconds

One thread. Rows are 28 x 28 bytes with a label, a task and an id. Each figure is a median.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from lifelong.memory import Memory, herding, k_center


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


def stored_speed(capacity: int = 2000, batch: int = 128) -> None:
    """Rows of 3 x 32 x 32 pixels, as they come and smaller."""
    chance = torch.Generator().manual_seed(0)
    small = torch.rand(batch, 3, 8, 8, generator=chance)
    pixels = torch.nn.functional.interpolate(small, size=32, mode="bilinear")
    images = (pixels * 255).to(torch.uint8)
    print(f"\n{'store':16}{'bytes a row':>12}{'filling':>12}{'full':>12}{'drawn':>12}   rows/s")
    for store, x in (
        (None, pixels), ("fp16", pixels), ("uint8", pixels), ("int8", pixels),
        (None, images), ("jpeg", images),
    ):  # fmt: skip
        offered = {**columns(batch), "x": x}

        def fill(store: str | None = store, offered: dict[str, Tensor] = offered) -> Memory:
            memory = Memory(capacity, store=store)
            for _ in range(capacity // batch):
                memory.add(offered, None, chance)
            return memory

        filling = capacity // batch * batch / seconds(fill, 1, 3)
        memory = fill()
        size = memory.nbytes // capacity
        while memory.seen < 20 * capacity:
            memory.add(offered, None, chance)
        adds = batch / seconds(lambda: memory.add(offered, None, chance), 20, 5)  # noqa: B023
        draws = batch / seconds(lambda: memory.draw(batch, chance), 20, 5)  # noqa: B023
        name = f"{store or 'as it is'} ({str(x.dtype)[6:]})"
        print(f"{name:20}{size:8}{filling:12.0f}{adds:12.0f}{draws:12.0f}")


def selection_speed() -> None:
    print(
        f"\n{'64 features, rows':20}{'herding all':>14}{'herding 50':>14}{'k-center 50':>14}   ms"
    )
    for rows in (500, 1000, 2000):
        features = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0))
        whole = seconds(lambda: herding(features, rows), 1, 7)  # noqa: B023
        some = [seconds(partial(select, features, 50), 1, 7) for select in (herding, k_center)]
        print(f"{rows:<20}{whole * 1e3:14.1f}{some[0] * 1e3:14.2f}{some[1] * 1e3:14.2f}")


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
    parser.add_argument("--rows-only", action="store_true", help="how rows are stored and chosen")
    parser.add_argument("--disk-rows", type=int, help="only the files, with so many rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.disk_rows:
        disk(arguments.disk_rows)
        return
    print(f"torch {torch.__version__}, numpy {np.__version__}, one thread\n")
    if not arguments.rows_only:
        memory_speed()
    stored_speed()
    selection_speed()
    if arguments.rows_only:
        return
    if not arguments.no_disk:  # in a process of its own, to see what it alone takes
        subprocess.run([sys.executable, __file__, "--disk-rows", "1000000"], check=True)


if __name__ == "__main__":
    main()
