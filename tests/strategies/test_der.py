import math

import pytest
import torch
from strategy_models import (
    Capture,
    batches_of,
    copied,
    growing,
    learn,
    learner_of,
    multi_head,
    seeded,
)
from strategy_models import mlp as fixed
from torch.nn import functional as F

from lifelong import DER, Batch, DERpp, Learner, Replay, TaskSpec
from lifelong.core.errors import BudgetTooSmall, InvalidBatch


class Witness(Capture):
    """Keep what was answered to each row when it was new."""

    def __init__(self):
        super().__init__()
        self.answers = {}

    def after_step(self, learner, batch, output):
        for i in range(batch.new):
            self.answers[int(batch.key[i])] = output[i].clone()


def squared(witness, rows, output):
    """mean of (output - stored output)**2, with what was not known then counting as 0."""
    total = 0.0
    for i in rows:
        then = witness.answers[int(witness.batches[-1].key[i])]
        total = total + ((output[i, : len(then)] - then) ** 2).sum()
    return total


def test_the_penalty_is_the_squared_distance_to_the_answers_of_that_time():
    der, seen = DER(50, strength=0.7), Witness()
    learner = learner_of([der, seen])
    batches = batches_of(5)
    learner.observe(batches[0])
    for batch in batches[1:]:
        loss = learner.observe(batch)
        whole, output = seen.batches[-1], seen.outputs[-1]
        base = F.cross_entropy(output[:6], batch.y)
        distance = squared(seen, range(6, 12), output) / (6 * 4)
        torch.testing.assert_close(loss, base + 0.7 * distance)
        assert whole.weight.tolist() == [1.0] * 6 + [0.0] * 6


def test_the_gradient_is_that_of_the_formula():
    der, seen = DER(50, strength=0.7), Witness()
    learner = learner_of([der, seen])
    batches = batches_of(4)
    for batch in batches:
        weights = copied(learner.parameters)
        learner.observe(batch)
    twin = seeded(fixed)
    twin.load_state_dict(weights)
    whole = seen.batches[-1]
    keys = whole.key[6:].tolist()
    then = torch.stack([seen.answers[key] for key in keys])
    output = twin(whole.x)
    loss = F.cross_entropy(output[:6], whole.y[:6]) + 0.7 * F.mse_loss(output[6:], then)
    expected = torch.autograd.grad(loss, list(twin.parameters()))
    for (name, own), grad in zip(seen.gradients[-1].items(), expected, strict=True):
        torch.testing.assert_close(own, grad, msg=lambda m, n=name: n + m)


def test_labels_of_replayed_rows_do_not_count():
    found = []
    for flip in (False, True):
        der, seen = DER(50), Capture()
        learner = learner_of([der, seen])
        first, second = batches_of(2)
        learner.observe(first)
        if flip:
            slots = torch.arange(6)
            held = der.memory.all()["y"]
            der.memory.write(slots, {"y": (held + 1) % 4})
        found.append(learner.observe(second))
    assert torch.equal(*found)


def test_outputs_that_a_row_had_no_answer_for_are_not_compared():
    der, seen = DER(100, strength=1.0), Witness()
    learner = learner_of([der, seen], growing)
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    for number, batch in enumerate(batches_of(3, classes=(2, 3), task=1)):
        loss = learner.observe(batch)
        output = seen.outputs[-1]
        base = F.cross_entropy(output[:6], batch.y)
        width = 2 if number == 0 else 4  # of what is stored by now
        distance = squared(seen, range(6, 12), output) / (6 * width)
        torch.testing.assert_close(loss, base + distance)
    held = der.memory.all()
    assert torch.equal(held["logits"].isnan().any(1), held["task"] == 0)


def test_derpp_adds_the_loss_of_a_second_draw():
    der, seen = DERpp(200, strength=0.3, label_strength=0.6), Witness()
    learner = learner_of([der, seen])
    differ = False
    batches = batches_of(8)
    learner.observe(batches[0])
    for batch in batches[1:]:
        loss = learner.observe(batch)
        whole, output = seen.batches[-1], seen.outputs[-1]
        assert len(whole) == 18
        expected = F.cross_entropy(output[:6], batch.y)
        expected = expected + 0.3 * squared(seen, range(6, 12), output) / (6 * 4)
        expected = expected + 0.6 * F.cross_entropy(output[12:], whole.y[12:])
        torch.testing.assert_close(loss, expected)
        differ |= set(whole.key[6:12].tolist()) != set(whole.key[12:].tolist())
    assert differ  # two draws, not one


@pytest.mark.parametrize("der_first", [True, False])
def test_with_replay_in_any_order_labels_count_for_replays_rows_alone(der_first):
    der, replay, seen = DER(50, strength=0.7, rows=3), Replay(50, rows=4), Witness()
    learner = learner_of([der, replay, seen] if der_first else [replay, der, seen])
    learner.observe(batches_of(1, task=9)[0])
    for batch in batches_of(4):
        loss = learner.observe(batch)
        whole, output = seen.batches[-1], seen.outputs[-1]
        own = list(range(6, 9)) if der_first else list(range(10, 13))
        other = [i for i in range(6, 13) if i not in own]
        assert whole.weight[own].tolist() == [0.0] * 3
        assert whole.weight[other].tolist() == [1.0] * 4
        counted = [*range(6), *other]
        base = F.cross_entropy(output[counted], whole.y[counted])
        torch.testing.assert_close(loss, base + 0.7 * squared(seen, own, output) / (3 * 4))


@pytest.mark.parametrize("kind", [DER, DERpp])
def test_a_loss_without_a_value_a_row_is_refused_clearly(kind):
    learner = learner_of(kind(50), loss=lambda output, y: F.cross_entropy(output, y))
    with pytest.raises(InvalidBatch, match=f"the loss gives a scalar; {kind.__name__} cannot do"):
        learner.observe(batches_of(1)[0])


def test_forgotten_rows_take_their_answers_along():
    der = DER(50)
    learner = learner_of(der)
    batch = batches_of(1)[0]
    learner.observe(batch)
    kept = der.memory.all()["logits"][3:]
    learner.forget(batch.key[:3])
    held = der.memory.all()
    order = held["key"].argsort()
    assert held["key"][order].tolist() == batch.key[3:].tolist()
    assert torch.equal(held["logits"][order], kept)


def test_answers_are_stored_in_float32_in_bf16_too():
    der = DER(50)
    learner = learner_of(der, precision="bf16")
    for batch in batches_of(3):
        learner.observe(batch)
    assert der.memory.all()["logits"].dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (DER, {"strength": -1.0}, "strength is -1.0"),
        (DER, {"strength": math.nan}, "strength is nan"),
        (DER, {"capacity": 0}, "capacity 0"),
        (DER, {"policy": "newest"}, "'newest'"),
        (DERpp, {"label_strength": -0.5}, "strength is -0.5"),
        (DERpp, {"by": "key"}, "by is 'key'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind, settings, told):
    with pytest.raises(ValueError, match=told):
        kind(**settings)


def test_a_batch_without_ids_can_be_kept():
    learner = learner_of(DERpp(10))
    for batch in batches_of(3):
        learner.observe(Batch.of(batch.x, batch.y))


def test_outputs_that_a_task_masked_are_not_compared_once_it_shows_them():
    learner = learner_of(DER(50), multi_head)
    for number, (task, classes) in enumerate([(0, (0, 1)), (1, (1, 2)), (0, (0, 1)), (0, (0, 2))]):
        learner.begin_task(TaskSpec(task, classes))
        batches = batches_of(2, classes=classes, task=task, seed=number)
        losses = [learner.observe(batch) for batch in batches]
        learner.end_task(batches)
    assert max(losses) < 10


@pytest.mark.parametrize("kind", [DER, DERpp])
def test_outputs_that_are_no_rows_of_classes_are_refused_before_the_step(kind):
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, optimizer, [kind(10)], loss=F.mse_loss)
    with pytest.raises(InvalidBatch, match=r"the output is \(3,\); this keeps outputs of shape"):
        learner.observe(Batch.of(torch.zeros(3, 4), torch.zeros(3)))
    assert learner.steps == 0


@pytest.mark.parametrize("policy", ["balanced", "ring", "reservoir"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_head_that_grows_makes_rows_leave_and_learning_goes_on(policy, seed):
    der = DER("5000B", policy=policy, by="task")
    learner = learner_of(der, growing)
    for task in range(3):
        classes = (2 * task, 2 * task + 1)
        batches = batches_of(15, rows=16, classes=classes, task=task, seed=seed)
        learn(learner, task, batches, classes)
        width = 2 * task + 2
        assert der.memory.capacity == der.memory.policy.capacity == 5000 // (36 + 4 * width)
        assert der.memory.nbytes <= 5000


def test_which_rows_leave_for_wider_answers_is_up_to_the_learners_seed_and_a_state_goes_on():
    held = set()
    first, (late,) = batches_of(2, classes=(0, 1)), batches_of(1, 1, classes=(2, 3), task=1)
    for seed in range(10):
        learner = learner_of(der := DER("528B"), growing, seed=seed)  # twelve rows, and then ten
        learn(learner, 0, first, (0, 1))
        assert len(der.memory) == 12
        twin = learner_of(other := DER("528B"), growing)
        twin.load_state_dict(learner.state_dict())
        for one in (learner, twin):
            one.begin_task(TaskSpec(1, (2, 3)))
            one.observe(late)
        assert len(der.memory) == 10
        assert torch.equal(der.memory.column("key"), other.memory.column("key"))
        held |= {*der.memory.column("key").tolist()}
    assert held == {*range(12), 1000}


def test_the_answers_count_towards_the_bytes_before_the_first_step():
    # With the 36 bytes of a row alone, two would have fitted.
    learner = learner_of(DER("80B"), growing)
    learner.begin_task(TaskSpec(0, (0, 1)))
    with pytest.raises(BudgetTooSmall, match="at least 88 bytes"):
        learner.observe(batches_of(1, classes=(0, 1))[0])
    assert learner.steps == 0


@pytest.mark.parametrize("kind", [DER, DERpp])
def test_answers_that_become_too_wide_are_refused_before_the_step(kind):
    strategy = kind("90B", by="task")
    learner = learner_of(strategy, growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    before = learner.state_dict()
    for _ in range(2):
        with pytest.raises(BudgetTooSmall, match="at least 104 bytes"):
            learner.observe(batches_of(1, classes=(2, 3), task=1)[0])
    assert str(learner.state_dict()) == str(before)


def test_filled_at_the_end_of_a_task_it_keeps_what_the_model_answers_then():
    der = DERpp(50, fill="task")
    learner = learner_of(der)
    batches = batches_of(4)
    learn(learner, 0, batches)
    held = der.memory.all()
    assert len(der.memory) == 24
    torch.testing.assert_close(held["logits"], learner.predict(held["x"]))
