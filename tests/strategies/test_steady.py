import math
from dataclasses import replace

import pytest
import torch
from strategy_models import Capture, batches_of, growing, learn, learner_of, multi_head
from torch.nn import functional as F

from lifelong import Batch, Steady, TaskSpec
from lifelong.core.errors import BudgetTooSmall, InvalidBatch


def expected_loss(whole, output, then, offset, strength):
    """The formula of the docstring, row by row."""
    y = whole.y[: whole.new]
    lowered = output[: whole.new].clone()
    for c in range(output.shape[1]):
        if c not in y.tolist():
            lowered[:, c] -= offset
    past = output[whole.new :]
    return (
        F.cross_entropy(lowered, y)
        + F.cross_entropy(past, whole.y[whole.new :])
        + strength * F.mse_loss(past, then)
    )


def test_the_loss_is_that_of_the_formula():
    learner = learner_of([steady := Steady(12, strength=0.3, rows=9), seen := Capture()])
    batches = batches_of(6, classes=(0, 1)) + batches_of(3, classes=(2, 3), task=1)
    for number, batch in enumerate(batches):
        held = steady.memory.all()
        offset = math.log(max(number / 2, 1))  # 12 are held of 6 * number
        assert steady.offset() == pytest.approx(offset)
        loss = learner.observe(batch)
        if number == 0:
            torch.testing.assert_close(loss, F.cross_entropy(seen.outputs[-1], batch.y))
            continue
        whole, output = seen.batches[-1], seen.outputs[-1]
        assert len(whole) == 6 + min(9, len(held["y"]))
        stored = {
            tuple(x.tolist()): a.float() for x, a in zip(held["x"], held["logits"], strict=True)
        }
        then = torch.stack([stored[tuple(x.tolist())] for x in whole.x[6:]])
        torch.testing.assert_close(loss, expected_loss(whole, output, then, offset, 0.3))


def test_as_many_rows_are_replayed_as_are_new_and_not_less_than_told():
    steady = Steady(100, rows=8)
    assert [steady.count(batches_of(1, rows=rows)[0]) for rows in (2, 8, 20)] == [8, 8, 20]


def test_answers_are_kept_in_16_bits_and_stay_finite():
    learner = learner_of(steady := Steady(50), lr=1e-9)
    with torch.no_grad():
        next(p for p in reversed(list(learner.model.parameters()))).fill_(1e6)
    learner.observe(batches_of(1)[0])
    logits = steady.memory.column("logits")
    assert logits.dtype is torch.float16
    assert logits.isfinite().all()


@pytest.mark.parametrize("model", [growing, multi_head])
def test_what_the_model_had_no_output_for_is_not_compared(model):
    learner = learner_of(steady := Steady(60), model)
    for task, classes in enumerate(((0, 1), (2, 3))):
        learn(learner, task, batches_of(3, classes=classes, task=task), classes)
    held = steady.memory.all()
    old = held["task"] == 0
    assert held["logits"][old][:, 2:].isnan().all()
    assert held["logits"][old][:, :2].isfinite().all()


def test_new_rows_count_by_their_weights():
    learner = learner_of([Steady(50), seen := Capture()])
    batch = batches_of(1)[0]
    weight = torch.tensor([1.0, 0, 0, 0, 0, 2])
    loss = learner.observe(replace(batch, weight=weight))
    rows = F.cross_entropy(seen.outputs[-1], batch.y, reduction="none")
    torch.testing.assert_close(loss, (rows * weight).sum() / weight.sum())


def test_a_budget_without_room_for_a_row_a_class_is_refused_before_the_step():
    learner = learner_of(Steady("100B"))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    with pytest.raises(BudgetTooSmall, match="too few for 4 classes"):
        learner.observe(batches_of(1)[0])
    assert learner.steps == 0


def test_only_classes_are_learned():
    learner = learner_of(Steady(50), loss=torch.nn.MSELoss())
    with pytest.raises(InvalidBatch, match=r"no class a row; .* default learner, .*\[Replay\("):
        learner.observe(Batch.of(torch.zeros(2, 3), torch.zeros(2, 4)))
