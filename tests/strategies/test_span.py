import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.strategies.span import spanned


@given(st.integers(0, 2**31), st.integers(0, 8), st.integers(1, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_is_an_orthonormal_basis_of_what_is_left_of_the_rows(seed, count, left, rounding):
    chance = torch.Generator().manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(10, count, generator=chance)).Q.T
    rows[count // 2 :, :left] *= 1e-8 if rounding else 1.0
    cut = rows[:, :left]
    first, second = spanned([cut[:, : left // 2], cut[:, left // 2 :]])
    basis = torch.cat((first, second), 1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), rtol=0, atol=2e-6)
    assert ((cut - (cut @ basis.T) @ basis).abs() <= 2e-6).all()
    assert len(basis) == torch.linalg.matrix_rank(cut.double(), atol=1e-6)
    assert len(basis) <= (count // 2 if rounding else count)


def test_rows_that_nearly_depend_on_each_other_are_told_apart():
    whole = torch.linalg.qr(torch.tensor([[1.0, 1.0], [1.0, 1.0001], [0.0, 3.0]])).Q.T
    (basis,) = spanned([whole[:, :2]])
    torch.testing.assert_close(basis @ basis.T, torch.eye(2))
