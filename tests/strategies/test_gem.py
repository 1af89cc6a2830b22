import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import Capture, batches_of, copied, growing, learn, learner_of, multi_head
from torch import nn
from torch.nn import functional as F

from lifelong import AGEM, GEM, Batch, Learner, Replay, TaskSpec
from lifelong.core.errors import BudgetTooSmall, NonFiniteLoss
from lifelong.strategies.gem import _duals

CLASSES = ((0, 1), (2, 3), (0, 3), (1, 2))


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).double()


def task_gradients(learner, strategy):
    """Each kept task's gradient on all of its rows, by hand, of what learns in this step."""
    held = strategy.memory.all()
    learner.model.eval()
    found = []
    for task in held["kept_with"].unique():
        at = held["kept_with"] == task
        output = (
            learner.model(held["x"][at], held["task"][at])
            if learner.task_aware
            else learner.model(held["x"][at])
        )
        loss = F.cross_entropy(output, held["y"][at])
        learned = {n: p for n, p in learner.parameters.items() if p.grad is not None}
        grads = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        grads = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(learned.values(), grads, strict=True)
        ]
        found.append(flat(dict(zip(learned, grads, strict=True))))
    learner.model.train()
    return torch.stack(found)


class Before(Capture):
    """Work out, beside the gradients before the projection, those of the tasks."""

    def __init__(self, of):
        super().__init__()
        self.of, self.past = of, []

    def project(self, learner):
        super().project(learner)
        if len(self.of.memory):
            with torch.enable_grad():
                self.past.append(task_gradients(learner, self.of))


def steps_of(strategy, model, **settings):
    """Learn four tasks; return the gradients before and after projection, and the tasks'."""
    before, after = Before(strategy), Capture()
    learner = learner_of([before, strategy, after], model, lr=0.3, **settings)
    for task, classes in enumerate(CLASSES):
        learn(learner, task, batches_of(8, classes=classes, task=task), classes)
    first = len(before.gradients) - len(before.past)
    pairs = zip(before.gradients[first:], after.gradients[first:], before.past, strict=True)
    return [(flat(g), flat(p), past) for g, p, past in pairs]


MODELS = {
    "growing": growing,
    "told": multi_head,
    "norm": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 4)
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_no_past_task_is_made_worse(model, margin):
    projected = 0
    for before, after, past in steps_of(GEM(24, margin=margin), model):
        along = past @ after
        assert (along >= -1e-5 * past.norm(dim=1) * before.norm()).all()
        violated = (past @ before < 0).any()
        if not violated:
            assert torch.equal(before, after)
        projected += int(violated)
    assert projected > 5


def test_the_step_is_the_nearest_of_those_that_make_no_task_worse():
    for before, after, past in steps_of(GEM(24, margin=0.0), growing):
        # Karush, Kuhn & Tucker: what was added is a sum of the binding tasks' gradients alone.
        share = torch.linalg.lstsq(past.T, (after - before)[:, None]).solution[:, 0]
        scale = before.norm() / past.norm(dim=1)
        assert (share >= -1e-4 * scale).all()
        assert ((past @ after) * share).abs().max() <= 1e-4 * before.norm() ** 2


@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_the_duals_are_those_of_the_authors_program(seed, tasks, margin):
    chance = np.random.default_rng(seed)
    past, own = chance.normal(size=(tasks, 9)), chance.normal(size=9)
    past *= 10.0 ** chance.integers(-3, 3, size=(tasks, 1))  # some are learned better than others
    square, slope = past @ past.T, past @ own
    share = _duals(torch.from_numpy(square), torch.from_numpy(slope), margin)
    # min v' square v / 2 + slope' v over v >= margin
    gradient = square @ share + slope
    scale = 1e-5 * np.abs(past).max(1) * np.linalg.norm(own + margin * past.sum(0))
    assert (share >= margin).all()
    assert (gradient >= -scale).all()
    assert (np.minimum(gradient, (share - margin) * (past**2).sum(1)) <= 10 * scale).all()


def test_a_gem_takes_out_what_would_raise_the_average_loss():
    projected = 0
    strategy = AGEM(24, rows=24)  # all of them, so that the draw is known
    for before, after, past in steps_of(strategy, growing):
        count = 24 // len(past)
        mean = past.mean(0) if 24 % len(past) == 0 else None
        if mean is None or count == 0:
            continue
        along = mean @ before
        expected = before - min(along, 0.0) / (mean @ mean) * mean
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-6)
        assert mean @ after >= -1e-5 * mean.norm() * before.norm()
        projected += int(along < 0)
    assert projected > 3


@pytest.mark.parametrize("make", [GEM, AGEM])
def test_buffers_and_modes_are_left_alone(make):
    strategy, net = make(24), MODELS["norm"]
    one, other = learner_of(strategy, net), learner_of([], net)
    for learner in (one, other):
        learn(learner, 0, batches_of(3))
        learner.begin_task(1)
    at = {n: b.clone() for n, b in one.model.named_buffers()}
    rows = batches_of(1, task=1)[0]
    one.observe(rows)
    other.observe(rows)
    for name, buffer in one.model.named_buffers():
        assert torch.equal(buffer, dict(other.model.named_buffers())[name])
    assert not torch.equal(at["1.running_mean"], one.model[1].running_mean)
    assert all(module.training for module in one.model.modules())


@pytest.mark.parametrize("make", [GEM, AGEM])
def test_an_accumulated_gradient_is_projected_once_and_whole(make):
    found = []
    for accumulate, size in ((1, 12), (2, 6)):
        learner = learner_of(make(30, rows=30), growing, accumulate=accumulate)
        for task, classes in enumerate(((0, 1), (2, 3))):
            learner.begin_task(TaskSpec(task, classes))
            batches = batches_of(4, rows=12, classes=classes, task=task)
            for batch in batches:
                for part in range(0, 12, size):
                    learner.observe(batch.rows(slice(part, part + size)))
            learner.end_task(batches)
        found.append(copied(learner.parameters))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5)


def test_tasks_share_the_room_and_few_rows_are_drawn_of_each():
    gem = GEM(40, rows=12)
    learner = learner_of(gem, growing)
    for task, classes in enumerate(CLASSES):
        learn(learner, task, batches_of(8, classes=classes, task=task), classes)
    counts = gem.memory.all()["kept_with"].unique(return_counts=True)[1]
    assert counts.tolist() == [10, 10, 10, 10]
    draws = [gem._drawn(learner) for _ in range(20)]
    for rows, weight in draws:
        assert weight.tolist() == [[1.0] * 3] * 4
        assert rows.task.view(4, 3).tolist() == [[task] * 3 for task in range(4)]
        assert len(rows.key.unique()) == 12
    assert len({tuple(rows.key.tolist()) for rows, _ in draws}) == 20
    every = torch.cat([rows.key for rows, _ in draws]).unique()
    assert len(every) > 35  # of 40


def test_a_task_with_fewer_rows_counts_as_much():
    gem = GEM(40, rows=40)
    learner = learner_of(gem)
    learn(learner, 0, batches_of(4))
    learn(learner, 1, batches_of(1, rows=2, task=1))
    rows, weight = gem._drawn(learner)
    assert weight.sum(1).tolist() == [24, 2]
    real = weight.flatten().bool()
    assert sorted(rows.key[real].tolist()) == sorted(gem.memory.all()["key"].tolist())
    assert len(gem.memory) == 26


def test_forgotten_rows_make_no_constraint():
    gem = GEM(40, rows=40)
    learner = learner_of(gem)
    learn(learner, 0, batches_of(2))
    learn(learner, 1, batches_of(2, task=1))
    learner.begin_task(2)
    learner.observe(batches_of(1, task=2)[0])
    learner.forget(torch.arange(12))  # all of task 0
    rows, weight = gem._drawn(learner)
    assert rows.task.unique().tolist() == [1]
    assert weight.shape == (1, 12)
    learner.observe(batches_of(2, task=2)[1])
    learner.forget(torch.arange(2000))
    learner.observe(batches_of(3, task=2)[2])


def test_bytes_stay_bytes_in_the_memory():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    class Front(nn.Module):
        def forward(self, x):
            return x.float() / 255

    model = nn.Sequential(Front(), net)
    gem = GEM(10)
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), [gem])
    for task in range(2):
        x = torch.full((6, 1, 2, 2), task, dtype=torch.uint8)
        learn(learner, task, [Batch.of(x, torch.arange(6) % 2, task)])
    assert gem.memory.all()["x"].dtype == torch.uint8


def test_a_gradient_that_is_not_finite_is_refused_and_nothing_has_changed():
    for make in (GEM, AGEM):
        learner = learner_of(make(20))
        batch = batches_of(1)[0]
        learner.begin_task(0)
        learner.end_task([batch])
        learner.strategies[0].memory._rows._columns["x"].data.fill_(torch.nan)
        learner.begin_task(1)
        before = copied(learner.parameters)
        with pytest.raises(NonFiniteLoss):
            learner.observe(batches_of(1, task=1)[0])
        assert all(torch.equal(before[n], p) for n, p in learner.parameters.items())


def test_it_stands_beside_replay():
    gem = GEM(20)
    learner = learner_of([Replay(20), gem], growing)
    for task, classes in enumerate(CLASSES[:2]):
        learn(learner, task, batches_of(4, classes=classes, task=task), classes)
    # What replay has appended is not of the task that is kept.
    kept = gem.memory.all()
    assert torch.equal(kept["task"], kept["kept_with"])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: GEM(0), "capacity 0"),
        (lambda: GEM(rows=0), "rows is 0"),
        (lambda: AGEM(rows=-1), "rows is -1"),
        (lambda: GEM(margin=-0.5), "margin is -0.5"),
        (lambda: GEM(margin=float("nan")), "margin is nan"),
    ],
)
def test_wrong_settings_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("kind", [GEM, AGEM])
def test_a_memory_of_bytes_shows_them_and_keeps_to_them(kind):
    learner = learner_of(kind("2KB"))
    assert repr(learner.strategies[0]) == f"{kind.__name__}(capacity='2000B')"
    for task in range(3):
        learn(learner, task, batches_of(6, task=task))
    memory = learner.strategies[0].memory
    assert 0 < memory.nbytes <= 2000
    assert sorted(set(memory.all()["kept_with"].tolist())) == [0, 1, 2]


@pytest.mark.parametrize("kind", [GEM, AGEM])
def test_between_tasks_no_room_is_needed_for_another(kind):
    learner = learner_of(kind(2))
    for task in range(2):
        learn(learner, task, batches_of(1, task=task))
    learner.observe(batches_of(1, task=0)[0])
    learner.begin_task(TaskSpec(2))
    with pytest.raises(BudgetTooSmall, match="3 classes or tasks"):
        learner.observe(batches_of(1, task=2)[0])


@pytest.mark.parametrize("kind", [GEM, AGEM])
def test_without_tasks_a_budget_too_small_is_refused_before_the_step(kind):
    learner, batches = learner_of(kind(2)), batches_of(1)
    for _ in range(2):
        learner.observe(batches[0])
        learner.consolidate(batches)
    before = copied(learner.parameters)
    with pytest.raises(BudgetTooSmall, match="3 classes or tasks"):
        learner.observe(batches[0])
    assert all(torch.equal(before[name], learner.parameters[name]) for name in before)
