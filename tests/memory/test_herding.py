import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.memory import herding


def one_by_one(features: torch.Tensor, count: int) -> list[int]:
    mean, chosen = features.mean(0), []
    for k in range(min(count, len(features))):
        total = features[chosen].sum(0)
        left = [i for i in range(len(features)) if i not in chosen]
        distances = [float((mean - (total + features[i]) / (k + 1)).norm()) for i in left]
        chosen.append(left[distances.index(min(distances))])
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 14), st.integers(0, 10**6))
def test_the_order_is_that_of_the_papers_loop(rows, width, count, seed):
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).double()
    assert herding(features, count).tolist() == one_by_one(features, count)


def test_fewer_rows_chosen_are_the_beginning_of_more():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert herding(features, 20)[:7].tolist() == herding(features, 7).tolist()


def test_the_mean_of_those_chosen_is_closer_than_that_of_the_first():
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    chosen = features[herding(features, 10)].mean(0)
    assert (chosen - features.mean(0)).norm() < 0.2 * (features[:10] - features.mean(0)).mean(
        0
    ).norm()


def test_equal_rows_are_each_chosen_once():
    assert sorted(herding(torch.ones(5, 2), 5).tolist()) == [0, 1, 2, 3, 4]
