import random as python_random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.random import RandomState, scattered


def lent(seed=0):
    return RandomState(seed, torch.device("cpu"))


def draw(state):
    with state:
        return torch.rand(3).tolist()


def test_the_global_generators_are_untouched():
    torch.manual_seed(5)
    before = global_states()
    draw(lent())
    assert global_states() == before


def test_the_sequence_continues_whatever_others_draw():
    one, other = lent(), lent()
    first = draw(one), draw(one)
    second = draw(other)
    torch.rand(9)
    torch.manual_seed(3)
    assert first == (second, draw(other))
    assert first[0] != first[1]
    assert draw(lent(1)) != first[0]


def global_states():
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002 - it must not be used
    return torch.get_rng_state().tolist(), python_random.getstate(), legacy


def fail(state):
    with state:
        torch.rand(3)
        raise KeyboardInterrupt


def test_an_error_does_not_advance_it():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    state = lent()
    draw(state)
    with pytest.raises(KeyboardInterrupt):
        fail(state)
    assert torch.equal(torch.get_rng_state(), before)
    twin = lent()
    draw(twin)
    assert draw(state) == draw(twin)


def test_blocks_within_blocks_are_one():
    state, twin = lent(), lent()
    with state:
        with state:
            first = torch.rand(3)
        second = torch.rand(3)
    assert (first.tolist(), second.tolist()) == (draw(twin), draw(twin))
    assert draw(state) == draw(twin)


def test_kept_draws_do_not_count():
    state, twin = lent(), lent()
    with state.kept():
        seen = torch.rand(3).tolist()
    assert seen == draw(twin)
    assert draw(state) == seen


def test_kept_draws_do_not_count_within_a_block_either():
    state, twin = lent(), lent()
    with state:
        with state.kept():
            torch.rand(3)
        inside = torch.rand(3).tolist()
    assert inside == draw(twin)
    assert draw(state) == draw(twin)


def test_kept_survives_an_error():
    state, twin = lent(), lent()

    def fail_kept():
        with state.kept():
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail_kept()
    assert draw(state) == draw(twin)


def test_a_saved_state_is_a_bookmark():
    state = lent()
    draw(state)
    saved = state.state_dict()
    first = draw(state)
    other = lent(9)
    other.load_state_dict(saved)
    assert draw(other) == first
    draw(other)
    again = lent(2)
    again.load_state_dict(saved)
    assert draw(again) == first


def test_a_state_saved_on_a_gpu_loads_without_one():
    state = lent()
    state.load_state_dict({**lent(3).state_dict(), "cuda": torch.zeros(16, dtype=torch.uint8)})
    assert list(state.state_dict()) == ["cpu"]
    assert draw(state) == draw(lent(3))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**62), st.floats(0.1, 0.9))
def test_ids_in_a_row_are_scattered_evenly(first, part):
    chance = scattered(torch.arange(2000) + first)
    assert ((chance >= 0) & (chance < 1)).all()
    assert abs(float((chance < part).float().mean()) - part) < 0.06


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**62), st.integers(1, 100))
def test_choices_of_different_salts_have_nothing_to_do_with_each_other(first, salt):
    key = torch.arange(4000) + first
    one, other = scattered(key) < 0.5, scattered(key, salt) < 0.5
    assert abs(float((one & other).float().mean()) - 0.25) < 0.05
