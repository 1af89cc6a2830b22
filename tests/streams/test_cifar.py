import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from lifelong.core.errors import DatasetError
from lifelong.streams import cifar
from lifelong.streams.cifar import BINARY, CLASSES, ZIP, cifar10, read_binary

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.delenv("LIFELONG_DATA", raising=False)
    monkeypatch.setattr(cifar, "_BATCH", 20)


def batches():
    made = {}
    for number, name in enumerate(NAMES):
        rows = np.full((20, 3073), number, dtype=np.uint8)
        rows[:, 0] = np.arange(20) % 10
        rows[:, 1:1025] = 100
        made[f"cifar-10-batches-bin/{name}"] = rows.tobytes()
    return made


def tarred(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def zipped(path, size=(32, 32), classes=CLASSES):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(classes):
            for part, rows in (("train", 2), ("test", 1)):
                for row in range(rows):
                    file = io.BytesIO()
                    Image.new("RGB", size, (20 * number,) * 3).save(file, "JPEG")
                    archive.writestr(f"{part}/{name}/{row:04}.jpg", file.getvalue())
    return path


def test_reads_the_binary_version(tmp_path):
    data = read_binary(tarred(tmp_path / BINARY, batches()))
    assert data.train_x.shape == (100, 3, 32, 32)
    assert data.train_y.tolist() == [*range(10)] * 10
    assert data.train_x[:, 0].eq(100).all(), "red comes first"
    assert data.train_x[:, 2, 0, 0].tolist() == [n for n in range(5) for _ in range(20)]
    assert data.test_x[:, 1].eq(5).all()
    assert data.class_names[3] == "cat"


def test_reads_the_zip_file_in_the_order_of_its_paths(tmp_path):
    zipped(tmp_path / "cifar10" / ZIP)
    data = cifar10(tmp_path, tmp_path / "cache")
    assert data.train_y.tolist() == [c for c in range(10) for _ in range(2)]
    assert (data.train_x[:, 0, 0, 0].int() - 20 * data.train_y).abs().max() <= 2


def test_keeps_what_it_decoded_and_notices_other_or_damaged_files(tmp_path, monkeypatch):
    path, cache = zipped(tmp_path / "cifar10" / ZIP), tmp_path / "cache"
    first = cifar10(tmp_path, cache)
    (kept,) = (cache / "cifar10").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "_read", None)
        again = cifar10(tmp_path, cache)
    assert again.train_x.equal(first.train_x)
    assert again.test_y.equal(first.test_y)
    kept.write_bytes(kept.read_bytes()[:1000])
    assert cifar10(tmp_path, cache).train_x.equal(first.train_x)
    os.utime(path, (1, 1))
    cifar10(tmp_path, cache)
    assert len(list((cache / "cifar10").iterdir())) == 2


def test_the_original_is_preferred(tmp_path):
    zipped(tmp_path / "cifar10" / ZIP)
    tarred(tmp_path / "cifar10" / BINARY, batches())
    assert len(cifar10(tmp_path, tmp_path / "cache").train_y) == 100


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    zipped(tmp_path / "cifar10" / ZIP)
    (tmp_path / "cache").write_text("a file, where a folder should be")
    assert len(cifar10(tmp_path, tmp_path / "cache").train_y) == 20


def test_refuses_damage(tmp_path):
    whole = batches()
    last = list(whole)[-1]
    changes = {
        "lacks test_batch": {name: whole[name] for name in list(whole)[:-1]},
        "too many": {**whole, last: whole[last] + b"x"},
        r"61459 bytes, not 61460": {**whole, last: whole[last][:-1]},
        "the label 77": {**whole, last: b"\x4d" + whole[last][1:]},
    }
    for told, files in changes.items():
        with pytest.raises(DatasetError, match=told):
            read_binary(tarred(tmp_path / BINARY, files))
    content = tarred(tmp_path / BINARY, whole).read_bytes()
    for damaged in (content[: len(content) // 2], b"nothing", content[:40] + b"?" + content[41:]):
        (tmp_path / BINARY).write_bytes(damaged)
        with pytest.raises(DatasetError, match="cannot be read"):
            read_binary(tmp_path / BINARY)


def test_refuses_a_zip_file_of_something_else(tmp_path):
    zipped(tmp_path / "cifar10" / ZIP, size=(8, 8))
    with pytest.raises(DatasetError, match=r"shape \(3, 8, 8\).*it is not CIFAR-10"):
        cifar10(tmp_path, tmp_path / "cache")
    zipped(tmp_path / "cifar10" / ZIP, classes=("cat", "dog"))
    with pytest.raises(DatasetError, match="it is not CIFAR-10"):
        cifar10(tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_images_are_uint8(tmp_path):
    tarred(tmp_path / "cifar10" / BINARY, batches())
    assert cifar10(tmp_path, tmp_path / "cache").test_x.dtype == torch.uint8
