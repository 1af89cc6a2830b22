import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.memory import SELECTIONS, herding, k_center


def features_of(seed: int, rows: int, width: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=chance, dtype=torch.float64)


def herding_by_hand(features: torch.Tensor, count: int) -> list[int]:
    mean, total, chosen = features.mean(0), torch.zeros(features.shape[1]).double(), []
    for k in range(1, count + 1):
        distance = ((mean - (features + total) / k) ** 2).sum(1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total += features[chosen[-1]]
    return chosen


def k_center_by_hand(features: torch.Tensor, count: int) -> list[int]:
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(features, features[chosen]).amin(1).argmax()))
    return chosen


def is_nearest_each_time(features: torch.Tensor, chosen: list[int]) -> bool:
    """Tell whether each choice is as near as any that was left, but for rounding."""
    mean, total = features.mean(0), torch.zeros(features.shape[1]).double()
    for k, row in enumerate(chosen, 1):
        distance = ((mean - (features + total) / k) ** 2).sum(1)
        distance[chosen[: k - 1]] = torch.inf
        if row in chosen[: k - 1] or distance[row] > distance.min() + 1e-12:
            return False
        total += features[row]
    return True


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 6), st.floats(0.05, 1.0))
def test_both_choose_what_their_equations_say(seed, rows, width, share):
    features, count = features_of(seed, rows, width), max(1, int(share * rows))
    herd, centers = herding(features, count).tolist(), k_center(features, count).tolist()
    assert is_nearest_each_time(features, herd)
    if rows == 2:  # equally far from their mean: either may come first
        assert (len(set(herd)), len(set(centers))) == (count, count)
        return
    assert herd == herding_by_hand(features, count)
    assert centers == k_center_by_hand(features, count)


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_a_choice_has_no_row_twice_and_longer_ones_begin_with_it(select):
    features = features_of(0, 30, 4).float()[torch.arange(60) % 30]  # every row twice
    whole = select(features, 99)
    assert sorted(whole.tolist()) == list(range(60))
    for count in (0, 1, 7, 14, 31):
        assert torch.equal(select(features, count), whole[:count])


def test_many_rows_take_the_same_way_as_few(monkeypatch):
    features = features_of(3, 50, 5)
    few = herding(features, 50)
    monkeypatch.setattr(sys.modules[herding.__module__], "AT_ONCE", 10)
    assert torch.equal(herding(features, 50), few)


def test_the_first_rows_have_a_mean_nearer_to_that_of_all_than_chance_has():
    features = features_of(1, 400, 8)
    random = torch.stack([features[i::40].mean(0) for i in range(40)])
    apart = (random - features.mean(0)).norm(dim=1)
    ours = features[herding(features, 10)].mean(0) - features.mean(0)
    assert ours.norm() < 0.5 * apart.min()


def test_centers_cover_better_than_chance():
    features = features_of(1, 400, 2)
    reach = torch.cdist(features, features[k_center(features, 20)]).amin(1).max()
    assert reach < 0.6 * torch.cdist(features, features[:20]).amin(1).max()


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_wrong_use_is_refused(select):
    with pytest.raises(ValueError, match="choose -1 rows"):
        select(torch.zeros(3, 2), -1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        select(torch.tensor([[0.0], [torch.nan]]), 1)
