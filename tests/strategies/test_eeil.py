import pytest
import torch
from strategy_models import batches_of, copied, learn, learner_of

from lifelong import EEIL, GEM, XDER, BiC, Exemplars, GDumb, Memory, Replay, Sleep, Strategy
from lifelong.checks.states import difference


def test_it_is_replay_from_a_balanced_memory_until_a_task_ends():
    batches = batches_of(4)
    weights = []
    for strategy in (EEIL(50, epochs=1), Replay(50, policy="balanced")):
        learner = learner_of(strategy)
        for batch in batches:
            learner.observe(batch)
        weights.append(copied(learner.parameters))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_tuning_lowers_the_loss_on_the_memory():
    learner = learner_of(eeil := EEIL(50, epochs=20, lr=0.05, batch=8))
    learner.begin_task(0)
    batches = batches_of(4)
    for batch in batches:
        learner.observe(batch)
    held = eeil.memory.all()

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(learner.predict(held["x"]), held["y"])

    before = loss()
    learner.end_task(batches)
    assert loss() < before


def test_each_class_has_as_many_rows():
    learner = learner_of(eeil := EEIL(12, epochs=1))
    learn(learner, 0, batches_of(6, classes=(0, 0, 0, 1)))
    learn(learner, 1, batches_of(6, classes=(2, 2, 2, 3), task=1))
    assert eeil.memory.all()["y"].bincount().tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("make", [EEIL, GDumb, BiC, Sleep])
def test_a_memory_that_is_only_read_is_not_copied_and_stays(make, monkeypatch):
    class Failing(Strategy):
        def consolidate(self, learner, data):
            raise RuntimeError("too late")

    settings = {} if make is BiC else {"steps": 3} if make is Sleep else {"epochs": 2}
    strategy = make(20, **settings)
    learner = learner_of([strategy, Failing()])
    learner.begin_task(0)
    for batch in batches_of(6):
        learner.observe(batch)
    before, copies = learner.state_dict(), []
    whole = Memory.state_dict
    monkeypatch.setattr(Memory, "state_dict", lambda self: copies.append(self) or whole(self))
    with pytest.raises(RuntimeError, match="too late"):
        learner.end_task(batches_of(6))
    assert not copies
    assert difference(learner.state_dict(), before) is None
    strategy.consolidate(learner, batches_of(6))  # on its own
    after = strategy.state_dict()
    for name in strategy.only_read:
        assert difference(after[name], before["strategies"][0]["state"][name]) is None


@pytest.mark.parametrize("make", [Exemplars, GEM, XDER])
def test_a_memory_that_is_changed_is_copied_once_and_put_back(make):
    class Failing(Strategy):
        def consolidate(self, learner, data):
            raise RuntimeError("too late")

    learner = learner_of([make(20), Failing()])
    learner.begin_task(0)
    for batch in batches_of(6):
        learner.observe(batch)
    learner.strategies[0].consolidate(learner, batches_of(6))
    before = learner.state_dict()
    with pytest.raises(RuntimeError, match="too late"):
        learner.end_task(batches_of(6, seed=5))
    assert difference(learner.state_dict(), before) is None
    assert len(learner.strategies[0].memory)
