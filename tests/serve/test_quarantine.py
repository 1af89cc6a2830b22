import pytest

from lifelong.core.errors import LogError
from lifelong.serve.quarantine import Quarantine, Refused


def test_rows_last_and_come_once(tmp_path):
    one = Quarantine(tmp_path)
    rows = [Refused(i, f"e{i}", None, "loss" if i % 2 else "schema", "told") for i in range(1, 6)]
    one.add(rows)
    one.close()
    again = Quarantine(tmp_path)
    again.add(rows[:2])
    assert again.rows() == rows
    assert again.rows(after=3, limit=1) == [rows[3]]
    assert again.counts() == {"loss": 3, "schema": 2}
    again.forget(3)
    assert again.rows() == rows[:2]


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "quarantine.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LogError, match=r"quarantine\.db is damaged"):
        Quarantine(tmp_path)


def test_what_was_quoted_does_not_stay_behind(tmp_path):
    one = Quarantine(tmp_path)
    one.add([Refused(7, "e7", None, "schema", "x: 12345.5 is out of range")])
    one.forget(7)
    assert all(b"12345.5" not in path.read_bytes() for path in tmp_path.iterdir())
