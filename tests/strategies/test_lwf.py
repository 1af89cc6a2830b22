import math
from dataclasses import replace

import pytest
import torch
from strategy_models import (
    Capture,
    Failing,
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

from lifelong import Batch, LwF, Replay, Strategy, TaskSpec
from lifelong.core import checkpoint
from lifelong.core.errors import InvalidBatch, LifelongError
from lifelong.core.forward import forward, frozen_copy
from lifelong.strategies import lwf as lwf_module


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


def named(batch, first):
    return replace(batch, key=torch.arange(first, first + len(batch)))


class Asked:
    """Count the rows that teachers are asked about."""

    def __init__(self, monkeypatch):
        self.rows = []
        ask = lwf_module.answers

        def counted(learner, teacher, asked):
            self.rows.append(len(asked))
            return ask(learner, teacher, asked)

        monkeypatch.setattr(lwf_module, "answers", counted)


@pytest.mark.parametrize("model", [mlp, growing, multi_head])
def test_recorded_answers_teach_as_those_asked_for_each_time(model, monkeypatch):
    lwfs = [LwF(0.6, record=record) for record in (100, 0)]
    learners = [learner_of(lwf, model) for lwf in lwfs]
    asked = Asked(monkeypatch)
    for learner in learners:
        learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
        learner.begin_task(TaskSpec(1, (2, 3)))
    batches = [named(b, 10 * n) for n, b in enumerate(batches_of(3, classes=(2, 3), task=1))]
    for _ in range(3):
        for batch in batches:
            one, other = (learner.observe(batch) for learner in learners)
            torch.testing.assert_close(one, other)
    assert len(asked.rows) == 3 + 9  # one of them once for each batch, the other each time
    assert len(lwfs[0].recorded) == 18
    assert len(lwfs[1].recorded) == 0
    learners[0].end_task(batches)
    assert len(lwfs[0].recorded) == 0  # there is another teacher now


def test_a_row_that_comes_changed_is_asked_about_again(monkeypatch):
    lwfs = [LwF(0.6, record=record) for record in (100, 0)]
    learners = [learner_of(lwf) for lwf in lwfs]
    for learner in learners:
        learn(learner, 0, batches_of(2))
        learner.begin_task(1)
    batch = named(batches_of(1, task=1)[0], 0)
    flipped = replace(batch, x=batch.x.flip(1))
    for one in (batch, flipped, batch, replace(batch, x=batch.x * (1 + 1e-6))):
        losses = [learner.observe(one) for learner in learners]
        torch.testing.assert_close(*losses)


def test_rows_without_an_id_are_asked_about_each_time(monkeypatch):
    lwf = LwF(record=100)
    learner = learner_of(lwf)
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    asked = Asked(monkeypatch)
    batch = batches_of(1, task=1)[0]
    for _ in range(2):
        learner.observe(replace(batch, key=torch.full((6,), -1)))
    some = torch.tensor([1, 2, 3, -1, 5, 1])  # one without, and one twice
    for _ in range(2):
        learner.observe(replace(batch, key=some))
    assert asked.rows == [6, 6, 6, 6]
    assert lwf.recorded.state_dict()["key"].tolist() == [1, 2, 3, 5]


def test_no_more_answers_are_kept_than_there_is_room_for():
    lwf = LwF(record=8)
    learner = learner_of(lwf)
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    for n, batch in enumerate(batches_of(3, task=1)):
        learner.observe(named(batch, 10 * n))
    assert lwf.recorded.state_dict()["key"].tolist() == [*range(6), 10, 11]


def test_a_step_that_fails_records_nothing_and_erased_rows_have_no_answer():
    lwf = LwF(record=100)
    learner = learner_of(lwf)
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    batch = named(batches_of(1, task=1)[0], 0)
    with pytest.raises(LifelongError):
        learner.observe(replace(batch, x=torch.full_like(batch.x, torch.nan)))
    learner.observe(named(batches_of(1, task=1, seed=5)[0], 40))
    assert lwf.recorded.state_dict()["key"].tolist() == list(range(40, 46))
    learner.forget([41, 44, 99])
    assert lwf.recorded.state_dict()["key"].tolist() == [40, 42, 43, 45]


def test_a_run_resumed_in_the_middle_of_a_task_goes_on_with_its_answers(tmp_path, monkeypatch):
    learner, other = (learner_of(LwF(0.5, record=100)) for _ in range(2))
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    batches = [named(b, 10 * n) for n, b in enumerate(batches_of(3, task=1))]
    for batch in batches[:2]:
        learner.observe(batch)
    learner.save(tmp_path / "half")
    other.load_state_dict(checkpoint.load(tmp_path / "half"))
    asked = Asked(monkeypatch)
    for batch in (*batches, *batches):
        first, second = learner.observe(batch), other.observe(batch)
        assert torch.equal(first, second)
    assert asked.rows == [6, 6]  # about the third batch, each of them once


def test_what_a_step_that_failed_has_asked_is_not_kept_by_the_next_which_asks_nothing():
    lwf, replay = LwF(rows="replayed", record=100), Replay(20)
    learner = learner_of([replay, lwf, failing := Failing()])
    failing.fails = False
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    batch = batches_of(1, task=1)[0]
    failing.fails = True
    with pytest.raises(OSError, match="no memory"):
        learner.observe(batch)
    failing.fails = False
    replay.every = 10  # so that nothing is replayed now
    learner.observe(batch)
    assert len(lwf.recorded) == 0


def test_the_end_of_a_task_that_fails_leaves_the_answers():
    class Fails(Strategy):
        def consolidate(self, learner, data):
            if len(learner.tasks) == 2:
                raise ValueError("not now")

    lwf = LwF(record=100)
    learner = learner_of([lwf, Fails()])
    learn(learner, 0, batches_of(2))
    teacher = copied(lwf.teacher)
    learner.begin_task(1)
    batch = named(batches_of(1, task=1)[0], 0)
    learner.observe(batch)
    with pytest.raises(ValueError, match="not now"):
        learner.end_task([batch])
    assert len(lwf.recorded) == 6
    expect_close(lwf.teacher, teacher, 0.0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": math.nan}, "strength is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": -2.0}, "temperature is -2.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"rows": "old"}, "rows is 'old'"),
        ({"record": -1}, "record is -1; give how many rows"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        LwF(**settings)


class Labelling(nn.Module):
    """A class for each of the positions in a row; outputs are (rows, classes, positions)."""

    def __init__(self, classes=4):
        super().__init__()
        self.output = nn.Linear(3, classes)

    def forward(self, x):
        return self.output(x).transpose(1, 2)


def test_labels_at_positions_are_averaged_over_as_in_the_loss():
    learner = learner_of(LwF(0.7), Labelling)
    x, y = torch.randn(4, 5, 3), torch.arange(20).view(4, 5) % 4
    learn(learner, 0, [Batch.of(x, y)])
    taught = learner.predict(x).transpose(1, 2).flatten(0, 1)
    learner.begin_task(1)
    loss = learner.observe(Batch.of(x, y, 1))
    expected = F.cross_entropy(taught, y.flatten()) + 0.7 * distance(taught, taught, 2.0)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("outputs", "y"),
    [
        (1, torch.ones(6, 1)),
        (0, torch.ones(6)),
        (1, torch.arange(6) % 2),
        (4, torch.full((6, 4), 0.3)),
    ],
)
def test_targets_that_are_no_classes_are_refused_in_the_first_step(outputs, y):
    def model():
        return nn.Sequential(nn.Linear(3, max(outputs, 1)), *([] if outputs else [nn.Flatten(0)]))

    learner = learner_of(LwF(100.0), model, loss=lambda output, y: output.flatten().square().mean())
    before = copied(learner.parameters)
    with pytest.raises(InvalidBatch, match="take FeatureDistillation"):
        learner.observe(Batch.of(torch.randn(6, 3), y))
    assert learner.batches == 0
    for name, weight in before.items():
        assert torch.equal(learner.parameters[name], weight)


def test_probabilities_of_classes_are_targets_like_others():
    learner = learner_of(LwF(1.0), loss=nn.CrossEntropyLoss())
    batch = batches_of(1)[0]
    soft = replace(batch, y=torch.softmax(torch.randn(6, 4), 1))
    learn(learner, 0, [soft])
    learn(learner, 1, [soft])
    assert learner.steps == 2


def test_a_task_aware_model_wants_an_output_for_each_class_named():
    class Shared(nn.Linear):
        def forward(self, x, task):
            return super().forward(x)

    learner = learner_of(LwF(), lambda: Shared(3, 2))
    learn(learner, 0, batches_of(1, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    with pytest.raises(InvalidBatch, match=r"class 3 is named for task 1, .* outputs 0 to 1"):
        learner.observe(batches_of(1, classes=(0, 1), task=1)[0])
    assert learner.steps == 1


def test_rows_without_ids_cannot_be_recorded():
    learner, plain = learner_of(LwF(record=9)), Batch.of(torch.rand(4, 3), torch.zeros(4).long())
    with pytest.raises(InvalidBatch, match=r"none of these 4 rows has a key.*leave record out"):
        learner.observe(plain)
    learner.observe(batches_of(1)[0])
    learner.observe(plain)  # others may have none, then
