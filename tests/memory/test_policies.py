import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import Shown

from lifelong.core.errors import InvalidBatch, StateMismatch, UnknownName
from lifelong.memory import POLICIES, Balanced, Reservoir, Ring, policy_of


@pytest.mark.parametrize("name", ["reservoir", "balanced", "loss-aware"])
def test_erased_rows_leave_the_others_equally_likely(name: str) -> None:
    counts = torch.zeros(60)
    for seed in range(1500):
        shown = Shown(POLICIES[name](8), seed)
        shown.offer([0] * 30)
        shown.forget(set(range(0, 30, 3)))
        shown.offer([0] * 12)
        shown.offer([0] * 18)
        counts[list(shown.held)] += 1
    stay = torch.ones(60, dtype=torch.bool)
    stay[:30:3] = False
    assert not counts[~stay].any()
    old, new = counts[:30][stay[:30]].mean(), counts[30:].mean()
    assert abs(old / new - 1) < 0.08  # of order 1 / capacity


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 12),
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=20), st.sets(st.integers(0, 99))
        ),
        max_size=8,
    ),
    st.integers(0, 9),
)
def test_properties(
    name: str, capacity: int, steps: list[tuple[list[int], set[int]]], seed: int
) -> None:
    shown = Shown(POLICIES[name](capacity), seed)
    twin = Shown(POLICIES[name](capacity), seed)
    for number, (groups, erased) in enumerate(steps):
        shown.offer(groups)
        twin.offer(groups)
        if number % 3 == 1:
            shown.forget(erased)
            twin.forget(erased)
        loaded = POLICIES[name](capacity)
        loaded.load_state_dict(twin.policy.state_dict())
        twin.policy = loaded
        assert shown.rows == twin.rows
        assert shown.policy.state_dict().keys() == twin.policy.state_dict().keys()
        assert len(shown.held) == shown.policy.held
        if number < 1:
            assert shown.policy.held == min(capacity, len(groups))


def test_room_of_an_erased_group_goes_to_the_others() -> None:
    for policy in (Balanced(9), Ring(9)):
        shown = Shown(policy)
        shown.offer([0, 1, 2] * 10)
        shown.forget(set(range(0, 30, 3)))
        for _ in range(20):
            shown.offer([1, 2] * 5)
        assert sorted(shown.of_group().values()) == [4, 5]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_states_that_do_not_fit_change_nothing(name: str) -> None:
    shown = Shown(POLICIES[name](4))
    shown.offer([0, 1, 1, 0, 1])
    before = str(shown.policy.state_dict())
    good = shown.policy.state_dict()
    damaged = [{**good, "capacity": 5}, {}, {**good, "more": 1}, {**good, "capacity": "4"}]
    if name in ("reservoir", "loss-aware"):
        damaged += [{**good, "held": 5}, {**good, "seen": 1}]
    else:
        damaged += [{**good, "ids": [0]}, {**good, "slots": [torch.tensor([0]), torch.tensor([0])]}]
    if name == "balanced":
        damaged += [{**good, "room": [9, 9]}, {**good, "seen": [0, 0]}]
    if name == "ring":
        damaged += [{**good, "groups": 2}]
    for state in damaged:
        with pytest.raises(StateMismatch):
            shown.policy.load_state_dict(state)
        assert str(shown.policy.state_dict()) == before


def test_errors() -> None:
    with pytest.raises(UnknownName, match="did you mean 'reservoir'"):
        policy_of("reservoire", 3)
    with pytest.raises(ValueError, match="for 3 rows in a memory for 4"):
        policy_of(Ring(3), 4)
    with pytest.raises(ValueError, match="capacity -1"):
        Reservoir(-1)
    with pytest.raises(ValueError, match="groups=9"):
        Ring(3, groups=9)
    shown = Shown(Ring(4, groups=2))
    shown.offer([5, 6])
    before = str(shown.policy.state_dict())
    with pytest.raises(InvalidBatch, match=r"groups \[5, 6, 7\]"):
        shown.offer([7])
    assert str(shown.policy.state_dict()) == before
    with pytest.raises(ValueError, match="holds 2 rows already"):
        policy_of(shown.policy, 4)
    for group in (torch.zeros(2, dtype=torch.int64), torch.zeros(3)):
        with pytest.raises(InvalidBatch, match="integers of shape"):
            Balanced(4).place(group, 3, torch.Generator())
