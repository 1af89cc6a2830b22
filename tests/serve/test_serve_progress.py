import json

import msgspec
import pytest

from lifelong.serve.progress import Ended, Learned, Point, Progress, Trial, read_progress


def test_what_was_written_is_read_again(tmp_path):
    told = Progress(
        1.0, 2, 3,
        points=[Point(1.0, 2, {0: 0.5}, {0: 0.0}, None)],
        matrix=[Ended(0, 0, 9, {0: 0.5, 7: 1.0})],
        learned=[Learned(2, 1, 3, [0.5])],
        trial=Trial(3, 2, points=[(1, 0.0, -1.0, 1.0)]),
    )  # fmt: skip
    path = tmp_path / "status.json"
    path.write_bytes(msgspec.json.encode(told))
    assert read_progress(path) == told


def test_what_is_unknown_is_passed_over_and_what_is_missing_has_its_default(tmp_path):
    path = tmp_path / "status.json"
    path.write_text(json.dumps({"time": 1, "pid": 2, "offset": 3, "more": [4]}))
    assert read_progress(path) == Progress(1.0, 2, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"time": 1, "pid": 2}',
        b'{"time": "now", "pid": 2, "offset": 3}',
        b'{"time": 1, "pid": 2, "offset": 3, "points": 5}',
        b'{"time": 1, "pid": 2, "offset": 3, "anchors": {"a": 1}}',
        b'{"time": NaN, "pid": 2, "offset": 3}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_said_to_be(tmp_path, content):
    path = tmp_path / "status.json"
    path.write_bytes(content)
    assert read_progress(path).startswith("status.json is damaged: ")


def test_a_file_that_cannot_be_read_is_said_to_be(tmp_path):
    assert "cannot be read" in read_progress(tmp_path)
