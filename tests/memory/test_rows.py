from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch
from lifelong.memory import Rows

DTYPES = [torch.uint8, torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float32]


def example(rows: int = 1) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(rows)
    return {
        "x/image": torch.randint(256, (rows, 3, 2), dtype=torch.uint8, generator=chance),
        "x/age": torch.rand(rows, generator=chance),
        "key": torch.arange(rows),
    }


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64])
def test_what_is_written_is_read(dtype: torch.dtype, on_disk: bool, tmp_path: Path) -> None:
    values = (torch.rand(5, 2, 3) * 9).to(dtype)
    rows = Rows(8, {"x": values}, path=tmp_path if on_disk else None)
    slots = torch.tensor([7, 0, 3, 2, 5])
    rows.write(slots, {"x": values})
    read = rows.read(slots.flip(0))["x"]
    assert read.dtype == dtype
    assert torch.equal(read, values.flip(0))
    assert rows.nbytes == 8 * 6 * dtype.itemsize


def test_disk_equals_memory_bit_for_bit(tmp_path: Path) -> None:
    here, there = Rows(900, example()), Rows(900, example(), path=tmp_path)
    chance = torch.Generator().manual_seed(0)
    for _ in range(5):
        slots = torch.randperm(900, generator=chance)[:700]
        for rows in (here, there):
            rows.write(slots, example(700))
    slots = torch.arange(900)
    for name, column in here.read(slots).items():
        assert torch.equal(column, there.read(slots)[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "key.bin",
        "x%2Fage.bin",
        "x%2Fimage.bin",
    ]


def test_columns_off_the_host_are_indexed_by_torch() -> None:
    rows = Rows(6, example())
    for column in rows._columns.values():
        column.array = None  # as on a GPU
    rows.write(torch.tensor([4, 1]), example(2))
    assert torch.equal(rows.read(torch.tensor([4, 1]))["x/image"], example(2)["x/image"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_memory() -> None:
    here, there = Rows(6, example()), Rows(6, example(), device="cuda")
    for rows in (here, there):
        rows.write(torch.tensor([4, 1]), example(2))
    for name, column in here.read(torch.arange(6)).items():
        assert torch.equal(column, there.read(torch.arange(6))[name].cpu())


def test_values_that_need_gradients_are_stored_without() -> None:
    rows = Rows(2, {"logits": torch.zeros(1, 2)})
    rows.write(torch.tensor([1]), {"logits": torch.ones(1, 2, requires_grad=True)})
    assert not rows.read(torch.tensor([1]))["logits"].requires_grad


@pytest.mark.parametrize("on_disk", [False, True])
def test_widening_keeps_and_fills(on_disk: bool, tmp_path: Path) -> None:
    rows = Rows(4, {"logits": torch.zeros(1, 2)}, path=tmp_path if on_disk else None)
    rows.write(torch.tensor([1, 3]), {"logits": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    rows.widen("logits", 3, fill=-9)
    rows.widen("logits", 3, fill=0)
    assert rows.read(torch.tensor([3, 1, 0]))["logits"].tolist() == [
        [3, 4, -9],
        [1, 2, -9],
        [0, 0, -9],
    ]
    rows.write(torch.tensor([0]), {"logits": torch.ones(1, 3)})


@pytest.mark.parametrize(("name", "width"), [("x", 2), ("logits", 1), ("key", 3)])
def test_what_cannot_be_widened(name: str, width: int) -> None:
    rows = Rows(4, {"logits": torch.zeros(1, 2), "key": torch.zeros(1, dtype=torch.int64)})
    with pytest.raises(ValueError, match=name):
        rows.widen(name, width, fill=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x/age": torch.zeros(3)}, "x/age has 3"),
        ({"x/age": torch.zeros(2, dtype=torch.float64)}, r"float64.*must be torch.float32"),
        ({"x/age": torch.zeros(2, 1)}, r"shape \(2, 1\); it must be .* \(rows,\)"),
        ({"x/age": torch.tensor(1.0)}, "x/age"),
        ({"new": torch.zeros(2)}, "new"),
    ],
)
def test_rows_that_do_not_fit_write_nothing(change: dict[str, Tensor], message: str) -> None:
    rows = Rows(4, example())
    with pytest.raises(InvalidBatch, match=message):
        rows.write(torch.tensor([0, 1]), {**example(2), **change})
    with pytest.raises(InvalidBatch, match="this memory has"):
        rows.write(torch.tensor([0]), {"key": torch.tensor([5])})
    assert not any(column.any() for column in rows.columns.values())


@pytest.mark.parametrize(
    "slots", [torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0])]
)
def test_slots_that_do_not_exist(slots: Tensor) -> None:
    rows = Rows(4, example())
    with pytest.raises(ValueError, match="slots"):
        rows.write(slots, example(2))
    with pytest.raises(ValueError, match="slots"):
        rows.read(slots)
    assert not any(column.any() for column in rows.columns.values())


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="capacity 0; it must be at least 1"):
        Rows(0, example())
    with pytest.raises(ValueError, match="device cuda"):
        Rows(1, example(), device="cuda", path=tmp_path)
    with pytest.raises(InvalidBatch, match="without columns"):
        Rows(1, {})
    with pytest.raises(InvalidBatch, match="differ in rows"):
        Rows(1, {"x": torch.zeros(1), "y": torch.zeros(2)})
    with pytest.raises(InvalidBatch, match="one row"):
        Rows(3, example()).write(torch.tensor([0]), example(2))


def test_copies_are_independent(tmp_path: Path) -> None:
    rows = Rows(2, example())
    twin = deepcopy(rows)
    rows.write(torch.tensor([0, 1]), example(2))
    assert not twin.read(torch.tensor([0, 1]))["x/image"].any()
    with pytest.raises(TypeError, match="files"):
        deepcopy(Rows(2, example(), path=tmp_path))


def test_a_new_owner_of_the_folder_leaves_the_old_rows_alone(tmp_path: Path) -> None:
    first = Rows(2, example(), path=tmp_path)
    first.write(torch.tensor([0, 1]), example(2))
    second = Rows(2, example(), path=tmp_path)
    assert not second.read(torch.tensor([0, 1]))["x/image"].any()
    assert torch.equal(first.read(torch.tensor([0, 1]))["x/image"], example(2)["x/image"])
