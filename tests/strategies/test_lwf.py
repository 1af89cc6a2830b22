import math

import pytest
import torch
from strategy_models import (
    Capture,
    batches_of,
    copied,
    expect_close,
    growing,
    learn,
    learner_of,
    mlp,
    multi_head,
)
from torch import nn
from torch.nn import functional as F

from lifelong import Batch, LwF, Replay, TaskSpec
from lifelong.core.forward import forward, frozen_copy


def distance(student, taught, temperature):
    """-T**2 * mean over rows of sum_c p_c(taught / T) * log p_c(student / T), without tricks."""
    total = torch.zeros(())
    for row in range(len(student)):
        p = (taught[row] / temperature).softmax(0)
        log_q = student[row] / temperature - torch.logsumexp(student[row] / temperature, 0)
        for c in range(len(p)):
            total = total - p[c] * log_q[c]
    return temperature**2 * total / len(student)


def test_the_loss_is_the_softened_cross_entropy_to_the_teacher():
    lwf = LwF(0.7, temperature=3.0)
    learner = learner_of(lwf)
    learn(learner, 0, batches_of(3))
    teacher = copied(learner.parameters)
    learner.begin_task(1)
    for batch in batches_of(3, task=1):
        student = learner.output(batch)
        taught = forward(frozen_copy(learner.model, teacher), batch.x, None)
        expected = F.cross_entropy(student, batch.y) + 0.7 * distance(student, taught, 3.0)
        torch.testing.assert_close(learner.observe(batch), expected.detach())
    expect_close(lwf.teacher, teacher, 0.0)  # it has not learned along


def test_outputs_that_the_teacher_lacks_are_taught_to_be_zero():
    lwf = LwF(1.0)
    learner = learner_of(lwf, growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    old = learner.predict(batches_of(1, classes=(2, 3), task=1)[0].x)
    learner.begin_task(TaskSpec(1, (2, 3)))
    batch = batches_of(1, classes=(2, 3), task=1)[0]
    student = learner.output(batch)
    assert (old.shape[1], student.shape[1]) == (2, 4)
    # p of the new classes is 0, yet they count in the denominator of the model's softmax.
    expected = F.cross_entropy(student, batch.y) + distance(student, old, 2.0)
    torch.testing.assert_close(learner.observe(batch), expected.detach())


@pytest.mark.parametrize("per_task", [False, True])
def test_a_task_aware_model_is_compared_on_the_classes_of_each_old_task(per_task):
    lwf = LwF(0.5, per_task=per_task)
    learner = learner_of(lwf, multi_head)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learn(learner, 1, batches_of(2, classes=(2, 3, 4), task=1), (2, 3, 4))
    learner.begin_task(TaskSpec(2, (5, 6)))
    batch = batches_of(1, classes=(5, 6), task=2)[0]
    unknown = torch.full_like(batch.task, -1)
    taught = learner.predict(batch.x, unknown)  # it has just begun, so it is the teacher still
    student = learner.model(batch.x, unknown)
    heads = [distance(student[:, c], taught[:, c], 2.0) for c in ([0, 1], [2, 3, 4])]
    strength = 0.5 * (2 if per_task else 1)
    expected = F.cross_entropy(learner.output(batch), batch.y) + strength * sum(heads) / 2
    torch.testing.assert_close(learner.observe(batch), expected.detach())


def test_only_new_rows_are_compared_when_others_are_replayed():
    lwf, replay, seen = LwF(1.0), Replay(20), Capture()
    learner = learner_of([replay, lwf, seen])
    learn(learner, 0, batches_of(3))
    teacher = copied(learner.parameters)
    learner.begin_task(1)
    batch = batches_of(1, task=1)[0]
    taught = forward(frozen_copy(learner.model, teacher), batch.x, None)
    loss = learner.observe(batch)
    output, labels = seen.outputs[-1], seen.batches[-1].y
    assert len(output) == 12
    expected = F.cross_entropy(output, labels) + distance(output[:6], taught, 2.0)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("rows", "part"), [("replayed", slice(6, 12)), ("all", slice(0, 12))])
@pytest.mark.parametrize("model", [mlp, multi_head])
def test_replayed_rows_are_compared_where_that_is_asked(rows, part, model):
    lwf, seen = LwF(0.4, rows=rows), Capture()
    learner = learner_of([Replay(20), lwf, seen], model)
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    teacher = frozen_copy(learner.model, copied(learner.parameters))
    learner.begin_task(TaskSpec(1, (2, 3)))
    learner.observe(batches_of(1, classes=(2, 3), task=1)[0])
    now = copied(learner.parameters)
    loss = learner.observe(batches_of(1, classes=(2, 3), task=1, seed=3)[0])
    whole = seen.batches[-1].rows(slice(12))
    student = frozen_copy(learner.model, now)
    if model is mlp:
        assert len(seen.batches[-1]) == 12
        expected = F.cross_entropy(student(whole.x), whole.y)
        apart = distance(student(whole.x)[part], teacher(whole.x)[part], 2.0)
    else:
        expected = F.cross_entropy(student(whole.x, whole.task), whole.y)
        unknown = torch.full((12,), -1)
        both = [net(whole.x, unknown)[part, :2] for net in (student, teacher)]
        apart = distance(*both, 2.0)
    torch.testing.assert_close(loss, expected + 0.4 * apart)


@pytest.mark.parametrize("model", [mlp, multi_head])
def test_where_nothing_is_replayed_no_replayed_row_is_compared(model):
    lwf = LwF(1.0, rows="replayed")
    learner = learner_of(lwf, model)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    batch = batches_of(1, classes=(2, 3), task=1)[0]
    expected = F.cross_entropy(learner.output(batch), batch.y)
    torch.testing.assert_close(learner.observe(batch), expected.detach())


def test_without_a_teacher_there_is_no_penalty():
    lwf = LwF(1.0)
    learner = learner_of(lwf)
    batch = batches_of(1)[0]
    expected = F.cross_entropy(learner.output(batch), batch.y)
    torch.testing.assert_close(learner.observe(batch), expected.detach())


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))


def test_the_teacher_leaves_running_statistics_alone():
    """Batch normalisation sees each new batch once, whether or not there is a teacher."""
    lwf = LwF(0.0)
    taught, plain = learner_of(lwf, normed), learner_of([], normed)
    for task in range(2):
        for learner in (taught, plain):
            learn(learner, task, batches_of(3, task=task))
    buffers = dict(plain.model.named_buffers())
    for name, buffer in taught.model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=0)
    assert buffers["1.num_batches_tracked"] == 6
    assert lwf.teacher["1.running_mean"].data_ptr() != buffers["1.running_mean"].data_ptr()


def test_the_teacher_normalises_by_the_statistics_of_its_own_time():
    lwf = LwF(1.0, temperature=1.0)
    learner = learner_of(lwf, normed)
    learn(learner, 0, batches_of(3))
    batch = batches_of(1, task=1)[0]
    taught = learner.predict(batch.x)
    learner.begin_task(1)
    for _ in range(2):
        learner.observe(Batch.of(batch.x + 5, batch.y, 1))  # moves the running statistics
    again = forward(frozen_copy(learner.model, lwf.teacher), batch.x, None)
    torch.testing.assert_close(again, taught)
    assert not torch.allclose(learner.predict(batch.x), taught)
    assert learner.model.training


def test_the_teacher_is_a_copy():
    lwf = LwF(1.0)
    learner = learner_of(lwf, mlp)
    learn(learner, 0, batches_of(1))
    own = {parameter.data_ptr() for parameter in learner.model.parameters()}
    assert not own & {tensor.data_ptr() for tensor in lwf.teacher.values()}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": math.nan}, "strength is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": -2.0}, "temperature is -2.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"rows": "old"}, "rows is 'old'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        LwF(**settings)
