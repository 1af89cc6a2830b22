import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifelong.nets.generators import Fidelity, fidelity, frechet


def rows(seed, count=60, width=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


@given(st.integers(0, 100), st.floats(0.2, 3.0), st.floats(-3.0, 3.0))
def test_the_distance_of_scaled_and_moved_rows_is_known(seed, factor, shift):
    """C2 = a**2 C1: tr(C1 + C2 - 2 a C1) = (1 - a)**2 tr C1, and the means' distance."""
    one = rows(seed)
    other = one * factor + shift
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum()
    expected = apart + (1 - factor) ** 2 * torch.trace(one.T.cov())
    torch.testing.assert_close(frechet(one, other), expected, rtol=1e-6, atol=1e-6)


@given(st.integers(0, 100))
def test_the_distance_is_symmetric_and_turns_with_the_rows(seed):
    one, other = rows(seed), rows(seed + 1, 50) @ rows(seed + 2, 4)
    turn, _ = torch.linalg.qr(rows(seed + 3, 4))
    torch.testing.assert_close(frechet(one, other), frechet(other, one))
    torch.testing.assert_close(frechet(one, other), frechet(one @ turn, other @ turn))


def test_only_the_mean_is_at_distance_one():
    given_, labels = rows(0), torch.arange(60) % 5
    made = given_.mean(0).expand(60, -1)
    found = fidelity(given_, made, labels, labels)
    torch.testing.assert_close(found.distance, 1.0, rtol=1e-6, atol=1e-6)
    assert found.diversity < 1e-12
    assert found.overlap == 1.0


def test_the_same_rows_are_perfect():
    found = fidelity(rows(0), rows(0), torch.arange(60), torch.arange(60))
    assert not found.collapsed
    assert found.distance < 1e-9
    torch.testing.assert_close((found.overlap, found.diversity), (1.0, 1.0))


@given(st.integers(2, 12))
def test_one_class_of_many_overlaps_by_its_share(classes):
    labels = torch.arange(10 * classes) % classes
    found = fidelity(
        rows(0, 10 * classes), rows(1, 10 * classes), labels, torch.full_like(labels, classes - 1)
    )
    torch.testing.assert_close(found.overlap, 1 / classes, rtol=1e-6, atol=0)
    assert found.collapsed


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            Fidelity(0.98, 1.83, 1.19),
            "distance is 1.19 and must stay below 1: made rows are not like real ones",
        ),
        (Fidelity(0.9, 0.1, 1.0), "distance is 1 and must stay below 1: made rows are too alike"),
        (
            Fidelity(0.5, 1.0, 0.1),
            "overlap is 0.5 and must be more than 0.5: made rows are of other classes than real "
            "ones",
        ),
        (
            Fidelity(0.2, 1.0, float("nan")),
            "overlap is 0.2 and must be more than 0.5: made rows are of other classes than real "
            "ones; distance is nan and must stay below 1: made rows are not like real ones",
        ),
    ],
)
def test_what_has_collapsed_says_by_which_bound(found, told):
    assert f"({found})" == f"({found!r}: {told})"


def test_what_has_not_collapsed_shows_its_numbers_alone():
    assert str(Fidelity(0.9, 1.0, 0.1)) == "Fidelity(overlap=0.9, diversity=1.0, distance=0.1)"


def test_what_counts_as_collapsed():
    assert Fidelity(0.5, 1.0, 0.1).collapsed
    assert Fidelity(0.9, 1.0, 1.0).collapsed
    assert Fidelity(0.9, 1.0, float("nan")).collapsed
    assert not Fidelity(0.51, 0.2, 0.99).collapsed
