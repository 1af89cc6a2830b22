import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lifelong.core import closed_forms
from lifelong.core.closed_forms import add_row_powers, has_closed_form, rows_first


class Subclass(nn.Linear):
    pass


def test_only_a_type_as_it_was_written_has_a_closed_form():
    assert has_closed_form(nn.Conv2d(1, 1, 1))
    assert not has_closed_form(Subclass(1, 1))
    assert not has_closed_form(nn.utils.parametrizations.weight_norm(nn.Linear(1, 1)))
    assert not has_closed_form(nn.Embedding(2, 2, max_norm=1.0))
    assert not has_closed_form(nn.Embedding(2, 2, scale_grad_by_freq=True))
    patched = nn.Linear(1, 1)
    patched.forward = lambda x: x
    assert not has_closed_form(patched)
    extended = nn.Linear(1, 1)
    extended.gain = nn.Parameter(torch.ones(1))
    assert not has_closed_form(extended)


def test_shapes_that_cannot_hold_rows_first():
    three = torch.zeros(3, 3, 3)
    assert rows_first(nn.Linear(3, 3), three, three, 3)
    assert not rows_first(nn.Linear(3, 3), three, three, 4)
    assert not rows_first(nn.Linear(3, 3), three[0, 0], three[0, 0], 3)
    assert not rows_first(nn.Conv2d(3, 3, 1), three, three, 3)
    assert not rows_first(nn.LayerNorm((3, 3, 3)), three, three, 3)
    assert rows_first(nn.Embedding(3, 3), torch.zeros(3), torch.zeros(3, 3), 3)


@settings(deadline=None, max_examples=30)
@given(
    ids=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=5),
    padding=st.sampled_from([None, 0, 3]),
    power=st.sampled_from([1, 2]),
)
def test_tokens_add_up_within_a_row_before_the_power(ids, padding, power):
    embedding = nn.Embedding(4, 2, padding_idx=padding).double()
    x = torch.tensor(ids)
    delta = torch.randn(
        *x.shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    sums = {"weight": torch.zeros(4, 2, dtype=torch.float64)}
    add_row_powers(embedding, x, delta, power, sums)
    one_hot = nn.functional.one_hot(x, 4).double()
    if padding is not None:
        one_hot[..., padding] = 0
    truth = (one_hot.transpose(1, 2) @ delta).abs().pow(power).sum(0)
    torch.testing.assert_close(sums["weight"], truth)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("long", [1, 1 << 14])
def test_memory_stays_within_the_budget_whatever_the_cut(monkeypatch, power, long):
    conv = nn.Conv2d(2, 4, 3, padding=1)
    random = torch.Generator().manual_seed(0)
    x, delta = torch.randn(9, 2, 6, 6, generator=random), torch.randn(9, 4, 6, 6, generator=random)
    found = []
    for budget in (1, 10_000, 1 << 30):
        monkeypatch.setattr(closed_forms, "_CACHE_BYTES", budget)
        monkeypatch.setattr(closed_forms, "_LONG_ROW", long)
        sums = {name: torch.zeros_like(p) for name, p in conv.named_parameters()}
        add_row_powers(conv, x, delta, power, {n: s.detach() for n, s in sums.items()})
        found.append(sums["weight"])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
