import torch
from strategy_models import batches_of, copied, learn, learner_of

from lifelong import EEIL, Replay


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
