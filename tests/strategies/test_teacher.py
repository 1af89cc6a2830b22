import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategy_models import batches_of, growing, learner_of, multi_head
from torch import nn

from lifelong import TaskSpec
from lifelong.nets import MLP, Classifier, NearestMeanHead
from lifelong.strategies.teacher import Frozen, answers, checked_rows, chosen, snapshot, softened


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 3),
    st.floats(0.5, 5.0),
    st.integers(0, 2**30),
)
def test_softened_is_the_sum_written_out(rows, classes, more, temperature, seed):
    chance = torch.Generator().manual_seed(seed)
    taught = torch.randn(rows, classes, generator=chance)
    student = torch.randn(rows, classes + more, generator=chance)
    total = 0.0
    for row in range(rows):
        p = (taught[row] / temperature).softmax(0)
        log_q = (student[row] / temperature).log_softmax(0)  # over all, also what was not taught
        total -= sum(float(p[c] * log_q[c]) for c in range(classes))
    assert float(softened(student, taught, temperature)) == pytest.approx(
        temperature**2 * total / rows, rel=1e-4
    )


@pytest.mark.parametrize(
    ("rows", "expected"), [("new", [0, 1, 2]), ("replayed", [3, 4]), ("all", [0, 1, 2, 3, 4])]
)
def test_rows_are_chosen_by_where_they_came_from(rows, expected):
    whole = batches_of(1, rows=3)[0].extended(batches_of(1, rows=2)[0])
    assert list(range(5))[chosen(whole, rows)] == expected
    assert checked_rows(rows) == rows


def test_a_teacher_is_copied_anew_only_for_other_tensors_or_a_grown_model():
    learner = learner_of([], growing)
    learner.begin_task(TaskSpec(0, (0, 1)))
    frozen, held = Frozen(), snapshot(learner.model)
    first = frozen.of(learner, held)
    assert frozen.of(learner, held) is first
    other = frozen.of(learner, dict(held))
    assert other is not first
    learner.end_task(batches_of(1, classes=(0, 1)))
    learner.begin_task(TaskSpec(1, (2, 3)))
    grown = frozen.of(learner, held)
    batch = batches_of(1)[0]
    assert answers(learner, grown, batch).shape[1] == 4
    assert not answers(learner, grown, batch)[:, 2:].any()  # what it lacks is 0
    assert torch.equal(answers(learner, grown, batch)[:, :2], answers(learner, first, batch))


def test_tensors_that_change_in_place_change_the_teacher_along():
    learner = learner_of([])
    frozen, held = Frozen(), snapshot(learner.model)
    batch = batches_of(1)[0]
    before = answers(learner, frozen.of(learner, held), batch)
    held["output.bias"] += 1
    after = answers(learner, frozen.of(learner, held), batch)
    torch.testing.assert_close(after, before + 1)


def test_a_model_that_wants_the_task_gets_that_of_each_row():
    learner = learner_of([], multi_head)
    learner.begin_task(TaskSpec(0, (0, 1)))
    batch = batches_of(1, classes=(0, 1))[0]
    taught = answers(learner, Frozen().of(learner, snapshot(learner.model)), batch)
    assert torch.equal(taught, learner.predict(batch.x, 0))
    assert not taught.requires_grad


def test_a_snapshot_is_a_copy_with_buffers():
    net = nn.BatchNorm1d(2)
    taken = snapshot(net)
    assert taken.keys() == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    net(torch.randn(8, 2))
    assert not taken["running_mean"].any()


def test_a_teacher_with_class_means_answers_logits_as_its_student_does():
    def net():
        return Classifier(MLP(3, hidden=(5,)), NearestMeanHead(nn.Linear(5, 4)))

    learner = learner_of([], net)
    learner.model.head.fill(torch.eye(4, 5))
    batch = batches_of(1)[0]
    logits = learner.output(batch)  # it is learning
    taught = answers(learner, Frozen().of(learner, snapshot(learner.model)), batch)
    torch.testing.assert_close(taught, logits.detach())
    assert not torch.allclose(learner.predict(batch.x), taught)


@pytest.mark.parametrize("more", [0, 2])
def test_softened_averages_over_positions_as_the_loss_of_rows_does(more):
    chance = torch.Generator().manual_seed(0)
    taught = torch.randn(3, 4, 2, 5, generator=chance)
    student = torch.randn(3, 4 + more, 2, 5, generator=chance)
    flat = [part.permute(0, 2, 3, 1).flatten(0, 2) for part in (student, taught)]
    torch.testing.assert_close(softened(student, taught, 2.0, 0.7), softened(*flat, 2.0, 0.7))
