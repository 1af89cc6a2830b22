import copy

import pytest
import torch
from small_learners import Noisy, batches, flat, learner

from lifelong import EWC, GEM, Adaptive, BiC, DERpp, Replay, Rising
from lifelong.core.errors import StateMismatch
from lifelong.core.strategy import Strategy, acts_at
from lifelong.memory import Memory


def test_a_strategy_that_does_nothing_changes_nothing():
    plain, with_one = learner(), learner(strategies=[Strategy()])
    for batch in batches(5):
        assert torch.equal(plain.observe(batch), with_one.observe(batch))
    assert flat(plain.state_dict()["model"]) == flat(with_one.state_dict()["model"])


@pytest.mark.parametrize("moment", ["extend", "penalty", "project", "after_step", "consolidate"])
def test_acts_are_found_also_when_inherited(moment):
    class Child(Noisy):
        pass

    assert acts_at(Child(), moment)
    assert not acts_at(Strategy(), moment)


def test_acts_happen_in_the_order_of_the_list():
    seen = []

    class Told(Strategy):
        def __init__(self, name):
            self.name = name

        def extend(self, learner, batch):
            seen.append(("extend", self.name))
            return batch

        def penalty(self, learner, batch, output):
            seen.append(("penalty", self.name))
            assert output.requires_grad
            return 0.0

        def project(self, learner):
            seen.append(("project", self.name))
            assert all(p.grad is not None for p in learner.parameters.values())

        def after_step(self, learner, batch, output):
            seen.append(("after_step", self.name))
            assert not output.requires_grad

    learner(strategies=[Told("a"), Told("b")]).observe(batches(1)[0])
    moments = ("extend", "penalty", "project", "after_step")
    assert seen == [(moment, name) for moment in moments for name in "ab"]


def test_one_strategy_belongs_to_one_learner():
    noisy = Noisy()
    learner(strategies=[noisy])
    with pytest.raises(ValueError, match="this Noisy already belongs to a learner; give each"):
        learner(strategies=[noisy])
    twice = Noisy()
    with pytest.raises(ValueError, match="already belongs"):
        learner(strategies=[twice, twice])


def test_generators_differ_between_strategies_and_seeds():
    pair = learner(strategies=[Noisy(), Noisy()], seed=0).strategies
    other = learner(strategies=[Noisy(), Noisy()], seed=1).strategies
    same = learner(strategies=[Noisy(), Noisy()], seed=0).strategies
    draws = [
        [torch.rand(1, generator=s.generator).item() for s in some] for some in (pair, other, same)
    ]
    assert draws[0] == draws[2]
    assert len({*draws[0], *draws[1]}) == 4


class Kept(Strategy):
    state = ("memory", "parts")

    def __init__(self):
        self.memory = Memory(3)
        self.parts = {"a": [torch.zeros(2), None, (1, "x")]}


def attached(kind=Kept, seed=0):
    made = kind()
    made.attach(torch.device("cpu"), seed)
    return made


def test_a_state_goes_over_whole_and_apart():
    one, other = attached(), attached(seed=1)
    one.memory.add({"key": torch.arange(2)}, None, one.generator)
    one.parts["a"][0].fill_(3)
    state = one.state_dict()
    before = flat(copy.deepcopy(state))
    other.load_state_dict(state)
    assert flat(other.state_dict()) == before
    assert isinstance(other.memory, Memory)
    other.parts["a"][0].zero_()
    other.memory.add({"key": torch.arange(1)}, None, other.generator)
    assert flat(one.state_dict()) == before


@pytest.mark.parametrize("change", [{"extra": 1}, {"parts": None}])
def test_a_state_with_other_keys_is_refused(change):
    state = attached().state_dict()
    if "parts" in change:
        del state["parts"]
    else:
        state |= change
    with pytest.raises(StateMismatch, match=r"state of Kept has .* expected \['generator', 'mem"):
        attached().load_state_dict(state)


def test_a_wrapper_may_tell_itself_where_it_acts():
    class Wrapper(Strategy):
        def acts(self, moment):
            return moment == "project"

        def penalty(self, learner, batch, output):
            return 0.0

    assert acts_at(Wrapper(), "project")
    assert not acts_at(Wrapper(), "penalty")


@pytest.mark.parametrize(
    ("strategy", "shown"),
    [
        (EWC(3.0, decay=0.5), "EWC(strength=3.0, decay=0.5)"),
        (EWC(), "EWC()"),
        (Replay(5), "Replay(capacity=5)"),
        (Replay("1KB", every=2, device="cpu"), "Replay(capacity='1000B', every=2)"),
        (DERpp(5, rows=3), "DERpp(capacity=5, rows=3)"),
        (BiC(50), "BiC(capacity=50)"),
        (GEM(7), "GEM(capacity=7)"),
        (Adaptive(EWC(3.0), schedule=Rising(over=3)), "Adaptive(inner=EWC(strength=3.0))"),
        (Strategy(), "Strategy()"),
    ],
)
def test_a_strategy_shows_its_settings(strategy, shown):
    assert repr(strategy) == shown
    learner(strategies=[strategy])
    assert repr(strategy) == shown
