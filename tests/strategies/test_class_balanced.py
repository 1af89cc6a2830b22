import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import Capture, batches_of, learner_of
from torch.nn import functional as F

from lifelong import DER, Batch, ClassBalanced, Replay
from lifelong.core.errors import InvalidBatch


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 99), min_size=1, max_size=20), st.floats(0, 0.99), st.booleans())
def test_weights_are_inverse_effective_numbers(labels, beta, counted):
    batch = Batch.of(torch.zeros(len(labels), 1), torch.tensor(labels))
    if counted:  # the first row does not count
        weight = torch.ones(len(labels))
        weight[0] = 0
        batch = Batch(batch.x, batch.y, batch.task, batch.new, batch.key, weight)
    found = ClassBalanced(beta).extend(None, batch).weight
    for i, label in enumerate(labels):
        rows = labels[1:] if counted else labels
        n = max(rows.count(label), 1)
        expected = 0.0 if counted and i == 0 else (1 - beta) / (1 - beta**n)
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)


def test_towards_one_every_class_weighs_the_same():
    learner = learner_of([Replay(50), ClassBalanced(0.9999), seen := Capture()])
    learner.observe(batches_of(1, classes=(0, 1))[0])
    loss = learner.observe(batches_of(1, rows=9, classes=(0, 0, 2), task=1)[0])
    batch, output = seen.batches[-1], seen.outputs[-1]
    rows = F.cross_entropy(output, batch.y, reduction="none")
    means = [rows[batch.y == c].mean() for c in batch.y.unique()]
    torch.testing.assert_close(loss, torch.stack(means).mean(), rtol=1e-3, atol=0)


def test_rows_without_weight_stay_so():
    learner = learner_of([DER(50), ClassBalanced(), seen := Capture()])
    for batch in batches_of(3):
        learner.observe(batch)
    assert seen.batches[-1].weight[6:].tolist() == [0.0] * 6
    assert (seen.batches[-1].weight[:6] > 0).all()


def test_what_is_no_class_is_refused():
    with pytest.raises(InvalidBatch, match="only classes can be balanced"):
        ClassBalanced().extend(None, Batch.of(torch.zeros(2, 1), torch.zeros(2)))


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match="beta is"):
        ClassBalanced(beta)
