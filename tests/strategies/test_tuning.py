import pytest
import torch
from strategy_models import batches_of, copied, growing, learn, learner_of, seeded
from strategy_models import mlp as fixed
from torch import nn
from torch.nn import functional as F

from lifelong import EEIL, XDER, GDumb, Replay, Sleep
from lifelong.core.errors import NonFiniteLoss
from lifelong.strategies.tuning import check_training, cosine, tune


def test_tuning_is_sgd_on_the_memory_in_random_batches():
    learner = learner_of(replay := Replay(50))
    for batch in batches_of(4):
        learner.observe(batch)
    twin = seeded(fixed)
    twin.load_state_dict(copied(learner.parameters))
    held, chance = replay.memory.all(), torch.Generator()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2, momentum=0.9)
    chance.manual_seed(7)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = cosine(0.2, 0.0)(epoch / 3)
        order = torch.randperm(24, generator=chance)
        for first in range(0, 24, 10):
            slots = order[first : first + 10]
            optimizer.zero_grad()
            F.cross_entropy(twin(held["x"][slots]), held["y"][slots]).backward()
            optimizer.step()
    chance.manual_seed(7)
    tune(learner, replay.memory, chance, epochs=3, batch=10, rate=cosine(0.2, 0.0))
    for name, weight in twin.named_parameters():
        torch.testing.assert_close(learner.parameters[name].data, weight.data)
    assert all(p.grad is None for p in learner.parameters.values())


@pytest.mark.parametrize("kind", [EEIL, GDumb])
def test_a_tuning_that_diverges_leaves_everything_as_it_was(kind):
    learner = learner_of(kind(50, epochs=9, lr=1e30))
    learner.begin_task(0)
    batches = batches_of(3)
    for batch in batches:
        learner.observe(batch)
    before = copied(learner.parameters)
    with pytest.raises(NonFiniteLoss, match="lower the strategy's learning rate"):
        learner.end_task(batches)
    assert all(torch.equal(value, learner.parameters[name]) for name, value in before.items())
    assert learner.current == 0
    assert learner.observe(batches[0]).isfinite()


@pytest.mark.parametrize("kind", [EEIL, GDumb])
def test_a_head_may_grow_and_momentum_of_the_optimizer_stays(kind):
    learner = learner_of(kind(50, epochs=2), growing, torch.optim.Adam)
    for task, classes in enumerate(((0, 1), (2, 3))):
        batches = batches_of(3, classes=classes, task=task)
        learn(learner, task, batches[:2], classes)
        moments = copied({str(i): s["exp_avg"] for i, s in
                          enumerate(learner.optimizer.state.values())})  # fmt: skip
        learner.consolidate(batches)
        for i, state in enumerate(learner.optimizer.state.values()):
            assert torch.equal(state["exp_avg"], moments[str(i)])


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [(33, 32, [33]), (34, 32, [32, 2]), (65, 32, [32, 33]), (1, 32, [1]), (3, 1, [1, 1, 1])],
)
def test_a_single_row_that_is_left_joins_the_step_before(rows, size, expected):
    seen = []
    learner = learner_of(replay := Replay(100))
    learner.observe(batches_of(1, rows=rows)[0])
    learner.model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    tune(learner, replay.memory, torch.Generator(), epochs=1, batch=size, rate=lambda at: 0.1)
    assert seen == expected


@pytest.mark.parametrize(("kind", "rows"), [(EEIL, 33), (GDumb, 17)])
def test_norms_can_be_tuned_on_any_number_of_rows(kind, rows):
    learner = learner_of(kind(50, epochs=1), normed)
    learn(learner, 0, batches_of(1, rows=rows))
    assert all(p.isfinite().all() for p in learner.parameters.values())


def normed():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))


@pytest.mark.parametrize("kind", [EEIL, GDumb, XDER])
@pytest.mark.parametrize("observed", [True, False])
def test_a_task_ends_with_a_memory_that_is_empty(kind, observed):
    learner = learner_of(kind(50), normed)
    batches = batches_of(2)
    before = copied(learner.model.state_dict())
    learner.begin_task(0)
    for batch in batches[: 2 * observed]:
        learner.observe(batch)
        learner.forget(batch.key)
    if kind is not GDumb:
        before = copied(learner.model.state_dict())
    learner.end_task(batches)
    assert learner.current is None
    after = learner.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": -1.0}])
@pytest.mark.parametrize("kind", [EEIL, GDumb])
def test_settings_out_of_range_are_refused(kind, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is"):
        kind(10, **settings)


SINGLE = {
    "eeil": lambda: EEIL(50, epochs=2, batch=1),
    "gdumb": lambda: GDumb(50, epochs=2, batch=1),
    "sleep": lambda: Sleep(50, steps=3, rows=1),
}


@pytest.mark.parametrize("name", SINGLE)
def test_steps_of_a_single_row_normalise_by_the_running_statistics(name):
    learner = learner_of(SINGLE[name](), normed)
    learner.begin_task(0)
    batch = batches_of(1)[0]
    learner.observe(batch)
    weights = copied(learner.parameters)
    statistics = copied(dict(learner.model.named_buffers()))
    learner.end_task([batch])
    after = dict(learner.model.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in statistics.items())
    assert any(not torch.equal(value, learner.parameters[name]) for name, value in weights.items())
    assert all(module.training for module in learner.model.modules())


@pytest.mark.parametrize("name", SINGLE)
def test_maps_of_a_single_row_have_statistics_of_their_own(name):
    def convolutional():
        norm = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4))
        return nn.Sequential(*norm, nn.Flatten(), nn.Linear(8, 4))

    learner = learner_of(SINGLE[name](), convolutional)
    learner.begin_task(0)
    batch = batches_of(1)[0]
    learner.observe(batch)
    learner.end_task([batch])
    assert int(learner.model[2].num_batches_tracked) >= 1 + 3


@pytest.mark.parametrize(
    "make", [lambda: EEIL(50, epochs=2), lambda: GDumb(50, epochs=2), lambda: Sleep(50, steps=3)]
)
def test_a_task_ends_with_a_single_row_left_in_the_memory(make):
    learner = learner_of(strategy := make(), normed)
    learner.begin_task(0)
    batch = batches_of(1)[0]
    learner.observe(batch)
    learner.forget(batch.key[1:])
    assert len(strategy.memory) == 1
    before = copied(learner.parameters)
    learner.end_task([batch])
    assert learner.current is None
    assert any(not torch.equal(before[name], learner.parameters[name]) for name in before)


def test_training_settings_in_range_are_taken():
    check_training(1, 1, 1e-9)


@pytest.mark.parametrize("name", SINGLE)
def test_norms_may_be_called_by_keyword(name):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.norm(input=self.first(x)))

    learner = learner_of(SINGLE[name](), Named)
    learner.begin_task(0)
    batch = batches_of(1)[0]
    learner.observe(batch)
    learner.end_task([batch])
    assert learner.current is None
