import io
import struct
import zipfile

import pytest
import torch

from lifelong.core.errors import DatasetError
from lifelong.streams import image_folder

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def png(colour, size=(3, 2)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


FLAT = {f"{name}/{i}.png": png((i, 0, c)) for c, name in enumerate("ab") for i in range(5)}


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unzipped(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("put", [zipped, unzipped])
def test_a_folder_for_each_class(tmp_path, put):
    data = image_folder(put(tmp_path / "pictures", {**FLAT, "a/notes.txt": b"no image"}))
    assert data.name == "pictures"
    assert data.class_names == ("a", "b")
    assert data.train_x.dtype == torch.uint8
    assert data.train_x.shape == (8, 3, 2, 3)
    assert data.test_x.shape == (2, 3, 2, 3)
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert x[:, 2, 0, 0].equal(y.byte())
    rows = torch.cat((data.train_x, data.test_x))[:, 0, 0, 0]
    assert rows.sort().values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("put", [zipped, unzipped])
@pytest.mark.parametrize("around", ["", "top/"])
def test_train_and_test_level_sorted_by_name(tmp_path, put, around):
    files = {
        f"{around}{part}/{name}": content
        for part in ("train", "test")
        for name, content in FLAT.items()
        if part == "train" or name.endswith("0.png")
    }
    data = image_folder(put(tmp_path / "pictures", dict(reversed(files.items()))))
    assert data.train_y.tolist() == [0] * 5 + [1] * 5
    assert data.train_x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2
    assert data.test_y.tolist() == [0, 1]


def test_resizing_and_grey(tmp_path):
    files = {**FLAT, "a/5.png": png((9, 9, 9), (7, 7))}
    path = zipped(tmp_path / "pictures.zip", files)
    with pytest.raises(DatasetError, match=r"a/5\.png is of \(7, 7\) pixels and the first of"):
        image_folder(path)
    assert image_folder(path, size=(4, 5)).train_x.shape[1:] == (3, 4, 5)
    assert image_folder(path, size=(4, 5), mode="L").train_x.shape[1:] == (1, 4, 5)
    with pytest.raises(ValueError, match="mode is 'CMYK'"):
        image_folder(path, mode="CMYK")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "has no images"),
        ({"a/notes.txt": b""}, "has no images"),
        ({**FLAT, "loose.png": b""}, r"loose\.png out of place"),
        ({**FLAT, "a/deep/x.png": b""}, r"a/deep/x\.png out of place"),
        ({**FLAT, "a/9.png": b"no png"}, r"a/9\.png cannot be decoded"),
        ({**FLAT, "a/9.png": png((1, 1, 1))[:-30]}, r"a/9\.png cannot be decoded"),
        ({"train/a/0.png": png((1, 1, 1)), "test/b/0.png": png((1, 1, 1))}, r"training.*\['b'\]"),
    ],
)
@pytest.mark.parametrize("put", [zipped, unzipped])
def test_refuses_what_is_no_folder_of_images(tmp_path, put, files, told):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatasetError, match=told):
        image_folder(put(tmp_path / "folder" / "pictures", files) if files else tmp_path / "folder")


def test_refuses_damaged_zip_files(tmp_path):
    path = zipped(tmp_path / "pictures.zip", FLAT)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="damaged or encrypted zip"):
        image_folder(path)
    at = 30 + len("a/0.png") + 20  # within the first entry's content
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(DatasetError, match="damaged"):
        image_folder(path)
    with pytest.raises(DatasetError, match="does not exist"):
        image_folder(tmp_path / "nowhere.zip")


def test_what_unfolds_to_too_much_is_refused(tmp_path):
    path = zipped(tmp_path / "bomb.zip", {"a/0.png": bytes(10**6)})
    with pytest.raises(DatasetError, match="would take 1000000 bytes, more than 1000"):
        image_folder(path, max_bytes=1000)
    lying = bytearray(path.read_bytes())
    size = struct.pack("<I", 10**6)
    while size in lying:
        at = lying.index(size)
        lying[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(lying)
    with pytest.raises(DatasetError, match="damaged"):
        image_folder(path, max_bytes=1000)
    wide = zipped(tmp_path / "wide.zip", {"a/0.png": png((0, 0, 0), (999, 999))})
    with pytest.raises(DatasetError, match="would take 2994003 bytes"):
        image_folder(wide, max_bytes=10**5)


def test_nothing_is_written_outside(tmp_path):
    path = zipped(tmp_path / "in.zip", {"a/../../../0.png": png((0, 0, 0)), **FLAT})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match="out of place"):
        image_folder(path)
    assert sorted(tmp_path.rglob("*")) == before
