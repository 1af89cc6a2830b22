from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.errors import StateMismatch
from lifelong.nets.generators.gaussians import COVARIANCES, ClassGaussians


def data(seed, rows=60, width=3, classes=3):
    chance = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    mix = torch.randn(width, width, generator=chance)
    return torch.randn(rows, width, generator=chance) @ mix + y[:, None], y + 4


def brute(covariance, x, y):
    x = x.double()
    each = [x[y == c].T.cov(correction=0) for c in y.unique()]
    if covariance == "class":
        return torch.stack(each)
    if covariance == "diagonal":
        return torch.stack([torch.diag(torch.diag(c)) for c in each])
    counts = [int((y == c).sum()) for c in y.unique()]
    return sum(n * c for n, c in zip(counts, each, strict=True))[None] / len(y)


@pytest.mark.parametrize("covariance", COVARIANCES)
@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(1, 59), max_size=4))
@settings(max_examples=25)
def test_moments_are_those_of_all_rows_however_they_come(covariance, seed, cuts):
    x, y = data(seed)
    gaussians = ClassGaussians(covariance)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    edges = [0, *sorted(set(cuts)), 60]
    for low, high in pairwise(edges):
        gaussians.add(x[order[low:high]], y[order[low:high]])
    own = torch.tensor(gaussians.classes).argsort()
    means = torch.stack([x[y == c].double().mean(0) for c in (4, 5, 6)])
    torch.testing.assert_close(gaussians.means()[own], means)
    found = gaussians.covariances()
    found = found if covariance == "shared" else found[own]
    torch.testing.assert_close(found, brute(covariance, x, y), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_samples_have_the_moments(covariance):
    x, y = data(1)
    gaussians = ClassGaussians(covariance, shrinkage=0.0)
    gaussians.add(x, y)
    drawn, labels = gaussians.sample(60000, torch.Generator().manual_seed(0))
    assert len(drawn) == 60000
    for place, label in enumerate(gaussians.classes):
        own = drawn[labels == label].double()
        expected = gaussians.covariances().expand(3, -1, -1)[place]
        torch.testing.assert_close(own.mean(0), gaussians.means()[place], atol=0.06, rtol=0)
        torch.testing.assert_close(own.T.cov(), expected, atol=0.25, rtol=0.05)


def test_shrinkage_adds_its_part_of_the_mean_variance():
    gaussians = ClassGaussians("diagonal", shrinkage=0.5)
    gaussians.add(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 0]))
    drawn, _ = gaussians.sample(50000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.var(0), torch.tensor([1.25, 0.25]), rtol=0.05, atol=0)


def test_each_class_gets_as_many_and_a_state_goes_on():
    x, y = data(2)
    gaussians, other = ClassGaussians(), ClassGaussians()
    gaussians.add(x, y)
    drawn, labels = gaussians.sample(10, torch.Generator().manual_seed(0))
    assert labels.bincount()[4:].tolist() == [4, 4, 4]
    other.load_state_dict(gaussians.state_dict())
    assert torch.equal(other.sample(10, torch.Generator().manual_seed(0))[0], drawn)


def test_states_that_do_not_fit_are_refused():
    gaussians = ClassGaussians("shared")
    gaussians.add(*data(0))
    with pytest.raises(StateMismatch, match="products is"):
        ClassGaussians("class").load_state_dict(gaussians.state_dict())
    state = {**gaussians.state_dict(), "counts": torch.ones(2)}
    with pytest.raises(StateMismatch, match=r"counts is \(2,\)"):
        ClassGaussians("shared").load_state_dict(state)


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="covariance is 'full'"):
        ClassGaussians("full")
    with pytest.raises(ValueError, match="shrinkage is -1"):
        ClassGaussians(shrinkage=-1)
