import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifelong.core.errors import InvalidBatch
from lifelong.memory import Bytes, Half, Int8, Memory


def rows(seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.floats(1e-6, 1e6))
def test_int8_is_off_by_half_a_step_at_most(seed, scale):
    given = rows(seed, scale)
    stored = Int8().encode(given)
    assert stored.shape == (20, 16)
    assert stored.dtype == torch.int8
    found = Int8().decode(stored, given[:0])
    step = given.flatten(1).abs().amax(1) / 127
    assert found.shape == given.shape
    assert ((found - given).flatten(1).abs().amax(1) <= step * 0.501).all()


def test_int8_keeps_zeros_and_reads_any_rows():
    given = torch.cat((torch.zeros(1, 3), torch.tensor([[127.0, -127.0, 1.0]])))
    stored = Int8().encode(given)
    assert torch.equal(Int8().decode(stored, given[:0]), given)
    assert torch.equal(Int8().decode(stored[1:], given[:0]), given[1:])
    assert Int8().decode(stored[:0], given[:0]).shape == (0, 3)


def test_fp16_keeps_three_digits():
    given = rows(0)
    found = Half().decode(Half().encode(given), given[:0])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, given, rtol=1e-3, atol=1e-6)


def test_pixels_come_back_as_they_were():
    levels = torch.arange(256)[:, None] / 255
    assert torch.equal(Bytes().decode(Bytes().encode(levels), levels[:0]), levels)
    other = Bytes(-1, 3)
    given = torch.linspace(-1, 3, 99)[:, None]
    found = other.decode(other.encode(given), given[:0])
    assert (found - given).abs().max() <= 4 / 255 / 2 + 1e-6


def test_values_that_cannot_be_stored_are_refused():
    with pytest.raises(InvalidBatch, match="70000 do not fit into fp16"):
        Half().encode(torch.tensor([[7e4]]))
    with pytest.raises(InvalidBatch, match="from 0 to 2 are outside of 0 to 1"):
        Bytes().encode(torch.tensor([[0.0, 2.0]]))
    with pytest.raises(InvalidBatch, match="NaN"):
        Int8().encode(torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(ValueError, match="low must be less"):
        Bytes(1, 1)


@pytest.mark.parametrize(
    ("store", "x", "told"),
    [
        ("uint8", torch.zeros(2, 1, 8, 8).byte(), "floats of a known range; bytes are one byte"),
        ("int8", torch.zeros(2, 1, 8, 8).byte(), "rows of several floats; bytes are one byte"),
        ("int8", torch.zeros(2), "rows of several floats"),
        ("fp16", torch.zeros(2, 3).byte(), "floats of more than 16 bits; bytes are one byte"),
        ("fp16", torch.zeros(2, 3).half(), "floats of more than 16 bits"),
        ("jpeg", torch.zeros(2, 1, 8, 8), r"torch.uint8 \(rows, 1 or 3, height, width\)"),
        ("jpeg", torch.zeros(2, 8, 8).byte(), r"torch.uint8 \(rows, 1 or 3, height, width\)"),
        ("jpeg", torch.zeros(2, 2, 8, 8).byte(), r"torch.uint8 \(rows, 1 or 3, height, width\)"),
    ],
)
def test_inputs_that_are_refused_are_told_what_it_is_for(store, x, told):
    said = f"cannot be stored as '{store}': x is .*; it is for .*{told}.*; leave out store"
    with pytest.raises(InvalidBatch, match=said):
        Memory(4, store=store).check({"x": x})


def test_a_codec_that_says_nothing_of_what_it_is_for_is_told_of_as_others():
    class Own(Half):
        name, wants = "own", ""

    with pytest.raises(InvalidBatch, match=r"x is torch.uint8 \(2, 3\); leave out store"):
        Memory(4, store=Own()).check({"x": torch.zeros(2, 3).byte()})


def test_codecs_fit_what_they_make_smaller():
    bytes_, floats = torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, 3)
    for codec in (Half(), Int8(), Bytes()):
        assert codec.fits(floats)
        assert not codec.fits(bytes_)
    assert not Half().fits(floats.half())
