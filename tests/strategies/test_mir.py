from dataclasses import replace

import pytest
import torch
from strategy_models import Capture, batches_of, copied, learner_of, multi_head, seeded
from strategy_models import mlp as fixed
from torch import nn
from torch.nn import functional as F

from lifelong import ERACE, MIR, XDER, Batch, ICaRL, Learner, Steady, TaskSpec
from lifelong.core.errors import InvalidBatch, NothingLeftToLearn


def filled(**settings):
    learner = learner_of([mir := MIR(60, lr=0.5, **settings), seen := Capture()])
    for number in range(8):
        learner.observe(batches_of(1, task=number)[0])
    return learner, mir, seen


def test_interference_is_what_a_real_step_does_to_the_loss():
    learner, mir, _ = filled()
    new, pool = batches_of(2, task=20)
    found = mir.interference(learner, new, pool)
    twin = seeded(fixed)
    twin.load_state_dict(copied(learner.parameters))
    before = F.cross_entropy(twin(pool.x), pool.y, reduction="none")
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    F.cross_entropy(twin(new.x), new.y).backward()
    optimizer.step()
    after = F.cross_entropy(twin(pool.x), pool.y, reduction="none")
    torch.testing.assert_close(found, (after - before).detach(), atol=1e-6, rtol=1e-4)


def test_those_replayed_are_the_most_interfered_of_all_candidates():
    learner, mir, seen = filled(candidates=100, rows=4)  # so all of the memory is looked at
    new = batches_of(1, task=20)[0]
    held = mir.memory.all()
    pool = Batch.of(held["x"], held["y"], 0, held["key"])
    scores = mir.interference(learner, new, pool)
    learner.observe(new)
    replayed = seen.batches[-1].key[6:]
    assert sorted(replayed.tolist()) == sorted(held["key"][scores.topk(4).indices].tolist())


@pytest.mark.parametrize("first", [ERACE, Steady, XDER, ICaRL])
def test_behind_what_takes_the_new_rows_over_they_are_the_most_interfered_too(first):
    mir, seen = MIR(60, lr=0.5, candidates=100, rows=4), Capture()
    learner = learner_of([first(60), mir, seen])
    for number in range(8):
        learner.observe(batches_of(1, task=number)[0])
    new, held = batches_of(1, task=20)[0], mir.memory.all()
    scores = mir.interference(learner, new, Batch.of(held["x"], held["y"], 0, held["key"]))
    assert scores.any()
    learner.observe(new)
    assert not seen.batches[-1].weight[:6].any()
    replayed = seen.batches[-1].key[-4:]
    assert sorted(replayed.tolist()) == sorted(held["key"][scores.topk(4).indices].tolist())


def test_new_rows_count_in_the_imagined_step_by_their_weights():
    learner, mir, _ = filled()
    new, pool = batches_of(2, task=20)
    weight = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0, 0.0])
    found = mir.interference(learner, replace(new, weight=weight), pool)
    rows = torch.tensor([1, 1, 3])
    torch.testing.assert_close(found, mir.interference(learner, new.rows(rows), pool))


def test_new_rows_of_which_nothing_learns_are_refused_as_by_a_learner():
    class Fixed(nn.Linear):
        fixed = False

        def forward(self, x):
            output = super().forward(x)
            return output.detach() if self.fixed else output

    learner = learner_of(MIR(60, rows=2), lambda: Fixed(3, 4))
    first, second = batches_of(2)
    learner.observe(first)
    learner.model.fixed = True
    with pytest.raises(NothingLeftToLearn, match="nothing that trains has a part in the loss"):
        learner.observe(second)
    assert learner.steps == 1


def test_the_loss_is_the_sum_of_two_means():
    learner, _, seen = filled(rows=3)
    weights = copied(learner.parameters)
    new = replace(batches_of(1, task=20)[0], weight=torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 1.0]))
    loss = learner.observe(new)
    assert seen.batches[-1].weight.tolist() == [*new.weight.tolist(), 0.0, 0.0, 0.0]
    twin = seeded(fixed)
    twin.load_state_dict(weights)
    rows = F.cross_entropy(twin(seen.batches[-1].x), seen.batches[-1].y, reduction="none")
    expected = (rows[:6] * new.weight).sum() / new.weight.sum() + rows[6:].mean()
    torch.testing.assert_close(loss, expected.detach())
    gradients = torch.autograd.grad(expected, list(twin.parameters()))
    for own, gradient in zip(seen.gradients[-1].values(), gradients, strict=True):
        torch.testing.assert_close(own, gradient)


def test_filled_at_the_end_of_tasks_it_looks_at_rows_of_earlier_ones_alone():
    learner = learner_of([MIR(60, fill="task"), seen := Capture()])
    for task, classes in enumerate(((0, 1), (2, 3))):
        learner.begin_task(TaskSpec(task, classes))
        batches = batches_of(3, classes=classes, task=task)
        for batch in batches:
            learner.observe(batch)
            replayed = seen.batches[-1].y[seen.batches[-1].new :]
            assert set(replayed.tolist()) <= {0, 1}
            assert (len(replayed) > 0) == (task > 0)
        learner.end_task(batches)


def test_outputs_that_are_no_tensor_are_refused():
    class Twofold(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(x), x

    model = Twofold()
    learner = Learner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        [MIR(60)],
        loss=lambda output, batch: F.cross_entropy(output[0], batch.y, reduction="none"),
    )
    first, second = batches_of(2)
    learner.observe(first)
    with pytest.raises(InvalidBatch, match="the output is tuple; it must be one tensor"):
        learner.observe(second)


def test_looking_ahead_leaves_no_trace():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(self.drop(self.norm(x)))

    learner = learner_of(mir := MIR(60), Noisy)
    new, pool = batches_of(2)
    learner.observe(new)
    before, weights = copied(learner.model.state_dict()), copied(learner.parameters)
    first = mir.interference(learner, new, pool)
    assert torch.equal(first, mir.interference(learner, new, pool))
    after = learner.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(value, learner.parameters[name]) for name, value in weights.items())
    assert all(p.grad is None for p in learner.parameters.values())
    assert learner.model.training


def test_a_model_that_wants_the_task_gets_it():
    learner = learner_of(MIR(60), multi_head)
    for task, classes in enumerate(((0, 1), (2, 3))):
        learner.begin_task(TaskSpec(task, classes))
        batches = batches_of(4, classes=classes, task=task)
        for batch in batches:
            assert learner.observe(batch).isfinite()
        learner.end_task(batches)


def test_a_loss_without_a_value_a_row_is_refused():
    model = nn.Linear(3, 4)
    learner = Learner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        [MIR(60, rows=2)],
        loss=lambda output, y: F.cross_entropy(output, y),
    )
    with pytest.raises(InvalidBatch, match="the loss gives a scalar; MIR cannot do without"):
        learner.observe(batches_of(1)[0])


@pytest.mark.parametrize(
    ("settings", "told"), [({"candidates": 0}, "candidates is 0"), ({"lr": 0.0}, "lr is 0.0")]
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        MIR(10, **settings)
