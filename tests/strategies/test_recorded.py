from __future__ import annotations

import pytest
import torch

from lifelong import Batch
from lifelong.core.errors import StateMismatch
from lifelong.strategies.recorded import Recorded, _marks

KEYS = torch.arange(10, 16)


def batch_of(x):
    return Batch.of(x, torch.zeros(6, dtype=torch.int64), key=KEYS)


class Teacher:
    """Counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, batch):
        self.asked += 1
        return batch.task[:, None].float() + torch.arange(6.0)[:, None] + self.asked


def again(first, second):
    """Tell whether rows that come a second time, as these, are asked about anew."""
    record, teacher = Recorded(100), Teacher()
    answers = record.ask(batch_of(first), teacher)
    record.commit()
    found = record.ask(batch_of(second), teacher)
    assert torch.equal(found, answers) is (teacher.asked == 1)
    return teacher.asked == 2


KINDS = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


def numbers(kind, width):
    return (torch.arange(6 * width).reshape(6, width) % 7).to(kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("width", [1, 3, 8])
def test_rows_are_known_again_whatever_their_numbers_are(kind, width):
    x = numbers(kind, width)
    assert not again(x, x.clone())
    changed = x.clone()
    changed[5, -1] = ~changed[5, -1] if kind is torch.bool else changed[5, -1] + 1
    assert again(x, changed)


@pytest.mark.parametrize("width", [3, 4])
def test_the_least_change_is_seen_beside_a_number_of_any_size(width):
    x = torch.rand(6, width)
    x[:, 0] = 1.7e9  # such as a time in seconds
    changed = x.clone()
    changed[2, 1] = torch.nextafter(changed[2, 1], torch.tensor(2.0))
    assert again(x, changed)


def test_numbers_that_change_places_are_seen():
    x = torch.rand(6, 4)
    assert again(x, x[:, [1, 0, 2, 3]])
    assert again(x, x.flip(0))


def test_rows_are_known_again_from_any_memory():
    wide = torch.rand(6, 9)
    x = wide[:, 1:9]
    assert not again(x, x.contiguous())
    long = torch.rand(49)
    assert not again(long[1:].view(6, 8), long[1:].view(6, 8).clone())
    image = torch.rand(6, 2, 2, 3)
    assert not again(image, image.to(memory_format=torch.channels_last))


def test_numbers_that_are_seen_in_pieces_are_known_again_too():
    x = torch.rand(6, 4, dtype=torch.complex64)
    assert not again(x.conj(), x.conj().resolve_conj())
    assert again(x, x.conj())
    single = torch.rand(1, 6, dtype=torch.complex128).t()
    assert not again(single, single.clone())
    part = torch.rand(6, 4, dtype=torch.complex64).imag
    assert not again(part, part.clone())
    nothing = {"a": torch.rand(6, 3), "b": torch.zeros(6, 0)}
    assert not again(nothing, {**nothing})


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("width", [8, 7])
def test_signs_that_change_together_are_seen(kind, width):
    x = (torch.rand(6, width) + 0.1).to(kind)
    assert again(x, -x)
    for one in range(width):
        for other in range(one):
            changed = x.clone()
            changed[:, [one, other]] *= -1
            assert again(x, changed)


@pytest.mark.parametrize("kind", [*KINDS[:6], torch.complex64])
@pytest.mark.parametrize("width", [784, 783])
def test_rows_of_few_bits_have_marks_of_their_own(kind, width):
    rows = torch.eye(width).to(kind)
    marks = _marks(Batch.of(rows, torch.zeros(width)))
    assert len(set(marks.tolist())) == width


def test_inputs_by_name_do_not_stand_for_each_other():
    a, b = torch.rand(6, 4), torch.rand(6, 4)
    assert not again({"a": a, "b": b}, {"a": a, "b": b})
    assert again({"a": a, "b": b}, {"a": b, "b": a})


def test_the_same_row_has_the_same_mark_in_any_batch():
    x, teacher, record = torch.rand(6, 5), Teacher(), Recorded(100)
    answers = record.ask(batch_of(x), teacher)
    record.commit()
    some = Batch.of(x[[4, 1]], torch.zeros(2), key=KEYS[[4, 1]])
    assert torch.equal(record.ask(some, teacher), answers[[4, 1]])
    assert teacher.asked == 1


def test_rows_that_an_older_version_kept_are_asked_about_again():
    record, teacher = Recorded(100), Teacher()
    record.ask(batch_of(torch.rand(6, 3)), teacher)
    record.commit()
    state = record.state_dict()
    other = Recorded(100)
    other.load_state_dict({**state, "mark": state["mark"].double()})
    assert len(other) == 0
    other.ask(batch_of(torch.rand(6, 3)), teacher)
    other.commit()
    assert len(other) == 6


@pytest.mark.parametrize(
    "damaged",
    [
        {"mark": torch.zeros(6, dtype=torch.int32)},
        {"mark": torch.zeros(6, 2, dtype=torch.int64)},
        {"mark": torch.zeros(6, dtype=torch.float64), "key": torch.zeros(6)},
        {"mark": torch.zeros(5, dtype=torch.float64)},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damaged):
    record, teacher = Recorded(100), Teacher()
    record.ask(batch_of(torch.rand(6, 3)), teacher)
    record.commit()
    with pytest.raises(StateMismatch):
        record.load_state_dict({**record.state_dict(), **damaged})
    assert len(record) == 6
