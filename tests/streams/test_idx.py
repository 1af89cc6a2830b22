import gzip
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.errors import DatasetError
from lifelong.streams.idx import read_idx

LABELS = struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes([7, 8, 9])
IMAGES = struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 3) + bytes(range(12))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_labels_and_images(tmp_path, suffix):
    for content, dimensions, expected in (
        (LABELS, 1, torch.tensor([7, 8, 9])),
        (IMAGES, 3, torch.arange(12).view(2, 2, 3)),
    ):
        path = tmp_path / f"{dimensions}{suffix}"
        path.write_bytes(gzip.compress(content) if suffix else content)
        values = read_idx(path, dimensions)
        assert values.dtype == torch.uint8
        assert values.long().equal(expected)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "starts with nothing"),
        (b"\x1f\x8b\x08\x00rest", "starts with 1f 8b 08 00"),
        (b"\0\0\x08\x03" + LABELS[4:], "00 00 08 01"),
        (b"\0\0\x0d\x01" + LABELS[4:], "no IDX file of bytes"),
        (LABELS[:6], "ends within its header"),
        (LABELS[:-1], "announces 3 values and has only 2"),
        (LABELS + b"x", "announces 3 values and has more"),
        (LABELS[:4] + bytes(4), "it is damaged"),
        (LABELS[:4] + bytes([0, 0, 0, 2]) + LABELS[8:], "has more"),
        (LABELS[:4] + bytes([255] * 4) + LABELS[8:], "has only 3"),
    ],
)
def test_refuses_damage(tmp_path, content, told):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=told):
        read_idx(path, 1)


def test_a_header_that_promises_the_sky_is_refused_unread(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(IMAGES[:4] + bytes([255] * 12))
    with pytest.raises(DatasetError, match="it is damaged"):
        read_idx(path, 3)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.gz cannot be read"):
        read_idx(tmp_path / "nowhere.gz", 1)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(gzip.compress(IMAGES)) - 1), st.integers(1, 255), st.booleans())
def test_no_damaged_gzip_file_gives_other_values(tmp_path_factory, position, flip, cut):
    content = bytearray(gzip.compress(IMAGES))
    content[position] ^= flip
    path = tmp_path_factory.getbasetemp() / "damaged.gz"
    path.write_bytes(content[:position] if cut else content)
    try:
        values = read_idx(path, 3)
    except DatasetError:
        return
    assert values.flatten().tolist() == list(range(12)), "only idle header bytes may differ"
