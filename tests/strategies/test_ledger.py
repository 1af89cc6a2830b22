import pytest
import torch

from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.strategies.ledger import FIRST, Ledger


def rows(start, count):
    key = torch.arange(start, start + count)
    return {"key": key, "x": torch.stack((key, -key), 1).float()}


def test_rows_are_found_by_id_however_many_came():
    ledger = Ledger("key", "x")
    for start in range(0, 5 * FIRST, 100):
        ledger.add(rows(start, 100))
    found = ledger.of(torch.tensor([3, 700, 10**9]))
    assert found["key"].tolist() == [3, 700]
    assert found["x"].tolist() == [[3, -3], [700, -700]]
    assert len(ledger) == 1300
    assert ledger.nbytes == 1300 * (8 + 8)


def test_what_is_dropped_is_gone_from_its_room_too():
    ledger = Ledger("key", "x")
    ledger.add(rows(10, 6))
    ledger.drop(torch.tensor([10, 12, 15, 99]))
    assert ledger.state_dict()["key"].tolist() == [11, 13, 14]
    for column in ledger._columns.values():
        assert not column[3:].any()
    ledger.add(rows(20, 1))
    assert ledger.state_dict()["x"].tolist() == [[11, -11], [13, -13], [14, -14], [20, -20]]


def test_a_row_that_came_twice_is_there_twice_and_goes_whole():
    ledger = Ledger("key", "x")
    ledger.add(rows(1, 2))
    ledger.add(rows(1, 2))
    assert len(ledger.of(torch.tensor([2]))["x"]) == 2
    ledger.drop(torch.tensor([2]))
    assert ledger.state_dict()["key"].tolist() == [1, 1]


def test_rows_without_an_id_are_not_kept_and_an_empty_ledger_has_nothing():
    ledger = Ledger("key", "x")
    ledger.add({"key": torch.full((3,), -1), "x": torch.zeros(3, 2)})
    assert len(ledger) == 0
    assert ledger.of(torch.tensor([-1])) == ledger.state_dict() == {}
    ledger.drop(torch.tensor([1]))


def test_its_state_is_taken_over_as_a_copy_and_a_damaged_one_is_refused():
    ledger, other = Ledger("key", "x"), Ledger("key", "x")
    ledger.add(rows(0, 3))
    other.load_state_dict(ledger.state_dict())
    ledger.drop(torch.tensor([1]))
    assert other.state_dict()["key"].tolist() == [0, 1, 2]
    damaged = (
        {"x": torch.zeros(2, 2)},
        {**rows(0, 2), "x": torch.zeros(3, 2)},
        {**rows(0, 2), "key": torch.zeros(2)},
        {"key": torch.arange(2)},
    )
    for state in damaged:
        with pytest.raises(StateMismatch, match=r"there must be \['key', 'x'\]"):
            other.load_state_dict(state)
    assert len(other) == 3


def test_other_rows_are_refused_before_anything_is_added():
    ledger = Ledger("key", "x")
    ledger.add(rows(0, 3))
    for other in ({"key": torch.arange(2)}, {**rows(5, 2), "x": torch.zeros(2, 3)}):
        with pytest.raises(InvalidBatch):
            ledger.add(other)
    ledger.add(rows(7, 1))
    assert ledger.state_dict()["key"].tolist() == [0, 1, 2, 7]
