import numpy as np
import pytest
import torch

from lifelong.core.errors import StateMismatch
from lifelong.memory import LossAware, Reservoir


def full(capacity: int, scores: list[float], seed: int = 0) -> tuple[LossAware, torch.Generator]:
    policy, chance = LossAware(capacity), torch.Generator().manual_seed(seed)
    policy.place(None, capacity, chance)
    policy.rate(torch.arange(len(scores)), torch.tensor(scores))
    return policy, chance


def test_rows_give_way_in_proportion_to_the_exponential_of_their_score():
    scores, counts, taken = [0.0, 1.0, 2.0, 0.5], np.zeros(4), 0
    for seed in range(6000):
        policy, chance = full(4, scores, seed)
        slots, _ = policy.place(None, 1, chance)
        counts[slots] += 1
        taken += len(slots)
    odds = np.exp(-np.array(scores))
    expected = taken * odds / odds.sum()
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()
    assert abs(taken / 6000 - 4 / 5) < 0.03  # a row comes in as often as into a reservoir


def test_several_places_are_those_of_a_draw_one_after_the_other():
    weights, counts = np.exp(-np.array([0.0, 1.0, 2.0])), np.zeros(3)
    for seed in range(4000):
        policy, chance = full(3, [0.0, 1.0, 2.0], seed)
        counts[policy._lowest(2, 3, chance)] += 1
    share = weights / weights.sum()
    second = [
        sum(share[j] * share[i] / (1 - share[j]) for j in range(3) if j != i) for i in (0, 1, 2)
    ]
    assert np.abs(counts / 4000 - (share + second)).max() < 0.03


def test_without_ratings_it_is_a_reservoir():
    ours, theirs = LossAware(5), Reservoir(5)
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for _ in range(20):
        slots, source = ours.place(None, 4, one)
        expected, rows = theirs.place(None, 4, other)
        assert slots.tolist() == expected.tolist()
        assert (source is None) == (rows is None)


def test_rows_not_rated_count_as_the_highest_and_a_new_row_has_no_rating():
    policy, chance = full(3, [0.5, 40.0])
    assert policy.scores.tolist() == [0.5, 40.0, 40.0]
    slots = torch.from_numpy(policy.place(None, 30, chance)[0])
    assert policy.scores[slots].unique().numel() == 1
    assert LossAware(3).scores.tolist() == []


def test_scores_follow_their_rows_when_others_are_erased():
    policy, _ = full(4, [1.0, 2.0, 3.0, 4.0])
    gaps, moved = policy.forget(np.array([0, 2]))
    assert (gaps.tolist(), moved.tolist()) == ([0], [3])
    assert policy.scores.tolist() == [4.0, 2.0]
    policy.shrink(1, torch.Generator())
    assert policy.held == policy.capacity == 1
    assert policy.scores.tolist() in ([4.0], [2.0])


def test_a_state_keeps_the_scores():
    policy, chance = full(4, [1.0, 2.0, 3.0])
    twin = LossAware(4)
    twin.load_state_dict(policy.state_dict())
    assert torch.equal(twin.scores, policy.scores)
    other = torch.Generator()
    other.set_state(chance.get_state())
    for _ in range(9):
        assert policy.place(None, 2, chance)[0].tolist() == twin.place(None, 2, other)[0].tolist()
    for damage in ({"scores": torch.zeros(3)}, {"scores": torch.zeros(4).double()}, {"held": 3}):
        with pytest.raises(StateMismatch):
            LossAware(4).load_state_dict({**policy.state_dict(), **damage})


def test_ratings_that_are_not_finite_are_refused():
    policy, _ = full(2, [1.0, 2.0])
    with pytest.raises(ValueError, match="1 scores are NaN"):
        policy.rate(torch.tensor([0, 1]), torch.tensor([1.0, torch.nan]))
    assert policy.scores.tolist() == [1.0, 2.0]
