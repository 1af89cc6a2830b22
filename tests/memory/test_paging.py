import subprocess
import sys
from pathlib import Path

import pytest

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
