import pytest
import torch
from strategy_models import Capture, batches_of, copied, growing, learn, learner_of, seeded
from strategy_models import mlp as fixed
from torch.nn import functional as F

from lifelong import ERACE, Batch, ClassBalanced, Learner, TaskSpec
from lifelong.core.errors import InvalidBatch


def asymmetric(output, batch):
    """The paper's two losses, row by row: new rows on their own classes, others on all."""
    own = sorted(set(batch.y[: batch.new].tolist()))
    new = [F.cross_entropy(output[i, own], torch.tensor(own.index(int(batch.y[i]))))
           for i in range(batch.new)]  # fmt: skip
    old = [F.cross_entropy(output[i], batch.y[i]) for i in range(batch.new, len(batch))]
    return sum(new) / len(new) + (sum(old) / len(old) if old else 0.0)


def test_the_loss_is_the_papers():
    learner = learner_of([ERACE(50), seen := Capture()])
    for number in range(4):
        classes = (0, 1) if number < 2 else (2, 3)
        loss = learner.observe(batches_of(1, classes=classes, task=number)[0])
        torch.testing.assert_close(loss, asymmetric(seen.outputs[-1], seen.batches[-1]))
    assert len(seen.batches[-1]) == 12


def test_the_gradient_is_that_of_the_papers_loss():
    learner = learner_of([ERACE(50), seen := Capture()])
    for batch in batches_of(3):
        weights = copied(learner.parameters)
        learner.observe(batch)
    twin = seeded(fixed)
    twin.load_state_dict(weights)
    loss = asymmetric(twin(seen.batches[-1].x), seen.batches[-1])
    expected = torch.autograd.grad(loss, list(twin.parameters()))
    for own, gradient in zip(seen.gradients[-1].values(), expected, strict=True):
        torch.testing.assert_close(own, gradient)


def test_new_rows_alone_leave_the_outputs_of_other_classes_where_they_are():
    learner = learner_of(ERACE(50))
    before = copied(learner.parameters)
    learner.observe(batches_of(1, classes=(1, 2))[0])
    after = learner.parameters["output.weight"]
    assert torch.equal(after[[0, 3]], before["output.weight"][[0, 3]])
    assert not torch.equal(after[[1, 2]], before["output.weight"][[1, 2]])


def test_weights_given_to_new_rows_are_kept():
    batch = Batch.of(torch.randn(3, 3), torch.tensor([0, 0, 1]))
    learner = learner_of([ClassBalanced(0.999999), ERACE(50), seen := Capture()])
    loss = learner.observe(batch)
    output = seen.outputs[-1][:, :2]
    rows = [F.cross_entropy(output[i], batch.y[i]) for i in range(3)]
    torch.testing.assert_close(loss, (rows[0] / 2 + rows[1] / 2 + rows[2]) / 2, rtol=1e-3, atol=0)


def test_what_weights_new_rows_stands_before_it_and_replayed_ones_behind():
    """Behind it new rows have the weight 0, whatever is done to them; both can be had."""
    before, behind = ClassBalanced(0.999999), ClassBalanced(0.999999)
    learner = learner_of([before, ERACE(50, rows=4), behind, seen := Capture()])
    for number in range(3):
        loss = learner.observe(batches_of(1, classes=(0, 0, 1), seed=number)[0])
    batch, output = seen.batches[-1], seen.outputs[-1]
    total = 0.0
    for rows, classes in ((range(6), [0, 1]), (range(6, 10), [0, 1, 2, 3])):
        count = batch.y[list(rows)].bincount(minlength=2)
        weight = torch.tensor([1 / float(count[batch.y[i]]) for i in rows])
        losses = [
            F.cross_entropy(output[i, classes], torch.tensor(classes.index(int(batch.y[i]))))
            for i in rows
        ]
        total += (torch.stack(losses) * weight).sum() / weight.sum()
    torch.testing.assert_close(loss, total.detach(), rtol=1e-3, atol=1e-4)


def test_a_head_may_grow():
    learner = learner_of([ERACE(50), seen := Capture()], growing)
    learn(learner, 0, batches_of(3, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    loss = learner.observe(batches_of(1, classes=(2, 3), task=1)[0])
    torch.testing.assert_close(loss, asymmetric(seen.outputs[-1], seen.batches[-1]))


def test_outputs_or_labels_that_are_no_classes_are_refused():
    flat = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))
    wide = torch.nn.Linear(4, 2)
    for model, told in ((flat, r"output is \(3,\)"), (wide, r"y is torch.float32 of shape \(3, 2")):
        learner = Learner(
            model, torch.optim.SGD(model.parameters(), lr=0.1), [ERACE(9)], loss=F.mse_loss
        )
        y = torch.zeros(3) if model is flat else torch.zeros(3, 2)
        with pytest.raises(InvalidBatch, match=told):
            learner.observe(Batch.of(torch.zeros(3, 4), y))
