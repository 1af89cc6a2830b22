import torch
from strategy_models import batches_of, copied, growing, learn, learner_of, seeded
from strategy_models import mlp as fixed
from torch import nn

from lifelong import GDumb, TaskSpec
from lifelong.memory import Memory
from lifelong.strategies.tuning import cosine, tune


def test_the_stream_moves_nothing_not_even_by_momentum_or_decay():
    learner = learner_of(
        GDumb(50), optimizer=lambda p, lr: torch.optim.SGD(p, lr, 0.9, weight_decay=0.1)
    )
    before = copied(learner.parameters)
    for batch in batches_of(3):
        learner.observe(batch)
    assert all(torch.equal(value, learner.parameters[name]) for name, value in before.items())
    assert len(learner.strategies[0].memory) == 18


def test_the_stream_moves_no_statistics_and_training_starts_from_the_initial_ones():
    learner = learner_of(gdumb := GDumb(50, epochs=2), normed)
    before = copied(learner.model.state_dict())
    assert any("running_mean" in name for name in before)
    for task in range(2):
        learner.begin_task(task)
        at = copied(learner.model.state_dict())
        batches = batches_of(3, task=task)
        for batch in batches:
            learner.observe(batch)
            now = learner.model.state_dict()
            assert all(torch.equal(value, now[name]) for name, value in at.items())
        learner.end_task(batches)
        assert gdumb.initial.keys() == before.keys()
        assert all(torch.equal(value, gdumb.initial[name]) for name, value in before.items())
    steps = 2 * 3  # epochs, of 36 rows in batches of 16
    assert int(learner.model[1].num_batches_tracked) == steps


def normed():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))


def test_it_trains_from_the_initial_weights_on_the_memory_alone():
    learner = learner_of(gdumb := GDumb(50, epochs=3, lr=0.1, batch=8))
    learn(learner, 0, batches_of(4))
    learner.begin_task(1)
    batches = batches_of(4, task=1)
    for batch in batches:
        learner.observe(batch)
    chance, memory = torch.Generator(), Memory(50, "balanced")
    chance.set_state(gdumb.generator.get_state())
    memory.load_state_dict(gdumb.memory.state_dict())
    learner.end_task(batches)
    twin = learner_of([], lambda: seeded(fixed))
    tune(twin, memory, chance, epochs=3, batch=8, rate=cosine(0.1, 0.001))
    for name, weight in twin.parameters.items():
        assert torch.equal(weight, learner.parameters[name])


def test_outputs_that_come_later_start_from_how_they_came():
    learner = learner_of(gdumb := GDumb(50, epochs=1), growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    born = copied({n: p for n, p in learner.parameters.items() if n not in gdumb.initial})
    assert born
    batches = batches_of(2, classes=(2, 3), task=1)
    for batch in batches:
        learner.observe(batch)
    learner.end_task(batches)
    assert gdumb.initial.keys() == learner.parameters.keys()
    assert all(torch.equal(value, gdumb.initial[name]) for name, value in born.items())
