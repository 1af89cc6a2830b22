import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import Capture, batches_of, growing, learn, learner_of
from test_er_ace import asymmetric
from torch.nn import functional as F

from lifelong import XDER, Batch, TaskSpec
from lifelong.strategies.xder import below


def test_the_loss_adds_the_three_terms():
    learner = learner_of([xder := XDER(60, strength=0.3, label_strength=0.6), seen := Capture()])
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    for batch in batches_of(4, classes=(0, 1)):
        then = xder.memory.all()
        loss = learner.observe(batch)
    whole, output = seen.batches[-1], seen.outputs[-1]
    assert len(whole) == 18
    stored = dict(zip(then["key"].tolist(), then["logits"], strict=True))
    kept = torch.stack([stored[int(k)] for k in whole.key[6:12]])
    new = whole.rows(slice(6))
    expected = asymmetric(output[:6], new) + 0.3 * F.mse_loss(output[6:12], kept)
    expected = expected + 0.6 * F.cross_entropy(output[12:], whole.y[12:])
    torch.testing.assert_close(loss, expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_no_chosen_output_ends_above_that_of_the_label(seed, ceiling):
    chance = torch.Generator().manual_seed(seed)
    now, then = (3 * torch.randn(5, 4, generator=chance) for _ in range(2))
    y = torch.randint(2, (5,), generator=chance)
    chosen = torch.tensor([False, False, True, True])
    found = below(now, then, y, chosen, ceiling)
    for i in range(5):
        own, top = then[i, y[i]], now[i, 2:].max()
        if top <= own:
            assert torch.equal(found[i, 2:], now[i, 2:])
        elif own > 0:
            scaled = now[i, 2:] * ceiling * own / top
            torch.testing.assert_close(found[i, 2:], scaled.minimum(own))
        assert (found[i, 2:] <= own).all()


@pytest.mark.parametrize("model", [growing, None])
def test_answers_for_classes_that_came_later_are_filled_in_when_their_task_ends(model):
    learner = learner_of(xder := XDER(60, ceiling=0.5), *([model] if model else []))
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    first = xder.memory.all()["logits"]
    assert first[:, :2].isfinite().all()
    assert first[:, 2:].isnan().all()  # also where the head had the outputs already
    learner.begin_task(TaskSpec(1, (2, 3)))
    batches = batches_of(3, classes=(2, 3), task=1)
    for batch in batches:
        learner.observe(batch)
    held = xder.memory.all()
    old = held["task"] == 0
    assert held["logits"][old][:, 2:].isnan().all()
    now = learner.predict(held["x"])
    learner.end_task(batches)
    after = xder.memory.all()
    assert torch.equal(after["logits"][:, :2], held["logits"][:, :2])
    lacking = torch.tensor([False, False, True, True])
    expected = below(now, held["logits"], held["y"], lacking, 0.5)
    torch.testing.assert_close(after["logits"][old][:, 2:], expected[old][:, 2:])
    again = xder.memory.all()["logits"].clone()
    learner.consolidate(batches)  # what is filled in stays
    assert torch.equal(xder.memory.all()["logits"], again)


def test_stored_answers_of_new_rows_give_no_old_class_more_than_their_own():
    learner = learner_of(xder := XDER(60, ceiling=0.5))
    for task, classes in enumerate(((0, 1), (2, 3))):
        learn(learner, task, batches_of(6, classes=classes, task=task), classes)
    held = xder.memory.all()
    new = held["task"] == 1
    own = held["logits"].gather(1, held["y"][:, None])
    assert (held["logits"][new][:, :2] <= own[new]).all()


def test_a_row_is_stored_alike_whatever_rows_it_comes_with():
    learner = learner_of(xder := XDER(60, ceiling=0.5))
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    output = torch.tensor([[1.0, 5.0, 2.0, 9.0], [0.0, 1.0, 7.0, 3.0]])
    both = Batch.of(torch.zeros(2, 3), torch.tensor([2, 3]), 1)
    told = xder.answers(learner, both, output)
    torch.testing.assert_close(told[0], torch.tensor([0.2, 1.0, 2.0, 9.0]))
    for i in range(2):
        row = slice(i, i + 1)
        assert torch.equal(xder.answers(learner, both.rows(row), output[row]), told[row])


def test_a_row_of_an_old_class_keeps_its_own_answer():
    learner = learner_of(xder := XDER(60, ceiling=0.5))
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    late = Batch.of(torch.zeros(1, 3), torch.tensor([0]), 1)
    told = xder.answers(learner, late, torch.tensor([[2.0, 8.0, 5.0, 1.0]]))
    torch.testing.assert_close(told, torch.tensor([[2.0, 1.0, 5.0, 1.0]]))


def test_without_named_classes_every_output_is_stored():
    learner = learner_of(xder := XDER(60))
    for batch in batches_of(3):
        learner.observe(Batch.of(batch.x, batch.y))
    assert xder.memory.all()["logits"].isfinite().all()


@pytest.mark.parametrize("ceiling", [-0.1, 1.1])
def test_a_ceiling_out_of_range_is_refused(ceiling):
    with pytest.raises(ValueError, match="ceiling is"):
        XDER(10, ceiling=ceiling)
