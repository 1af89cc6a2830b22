import gc
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lifelong.memory.column import Column
from lifelong.memory.paging import MappedFile, share_budget

RESIDENT = """
import sys
import torch
from lifelong.memory import Memory

def megabytes(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024

rows, chance = 200_000, torch.Generator().manual_seed(0)
memory = Memory(rows, path=sys.argv[1])
batch = {"x": torch.ones(1000, 784, dtype=torch.uint8), "key": torch.arange(1000)}
before = megabytes("VmRSS")
for _ in range(rows // 1000 + 3):
    memory.add(batch, None, chance)
for _ in range(20):
    memory.draw(128, chance)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_files_take_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RESIDENT, str(tmp_path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(told.stdout) < 75  # of 157 MB of rows


def test_small_files_stay_mapped_whole_and_the_others_share(tmp_path: Path) -> None:
    files = [MappedFile(tmp_path / f"{size}.bin", size) for size in (900, 10, 500)]
    share_budget(files, 400)
    assert [file.budget for file in files] == [195, None, 195]
    share_budget(files, 1500)
    assert [file.budget for file in files] == [None] * 3


def test_no_more_is_touched_than_may_stay_mapped(tmp_path: Path) -> None:
    file = MappedFile(tmp_path / "x.bin", 100)
    file.budget, released = 50, []
    file.release = lambda: released.append(setattr(file, "_touched", 0))  # type: ignore[method-assign]
    assert [span.stop - span.start for span in file.spans(7, 10)] == [5, 2]
    assert len(released) == 1
    assert len(list(file.spans(3, 10))) == 1  # 2 + 3 rows fill the budget
    assert len(released) == 1
    assert len(list(file.spans(1, 99))) == 1
    assert len(released) == 2


def test_rows_are_read_past_the_map_as_they_were_written_through_it(tmp_path):
    file = MappedFile(tmp_path / "x.bin", 6 * 4)
    np.frombuffer(file.map, dtype=np.uint8)[:] = np.arange(24)
    assert file.read(np.array([5, 0, 5]), 4) == bytes([20, 21, 22, 23, 0, 1, 2, 3, 20, 21, 22, 23])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float64])
def test_a_column_reads_the_same_past_the_map(tmp_path, dtype):
    values = (torch.rand(50, 3) * 5).to(dtype)
    file = MappedFile(tmp_path / "x.bin", 50 * 3 * dtype.itemsize)
    column = Column(torch.Size((50, 3)), dtype, torch.device("cpu"), file)
    column.put(np.arange(50), values)
    file.budget = mmap.PAGESIZE  # no longer mapped whole
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(column.take(order), values[order])
    assert column.take(order[:0]).shape == (0, 3)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_a_file_that_is_gone_leaves_no_descriptor(tmp_path):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        MappedFile(tmp_path / "x.bin", 100)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
