import numpy as np
import pytest
import torch
from fakes import Constant, array, numbered
from torch import nn

from lifelong.serve.snapshot import Holder, Snapshot


def test_a_snapshot_is_a_copy_in_eval_mode():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    snapshot = Snapshot(1, net, probabilities=False)
    before = snapshot.predict(array(2, 1.0))
    with torch.no_grad():
        net[0].weight.zero_()
    assert net.training
    assert net[0].weight.requires_grad
    np.testing.assert_array_equal(snapshot.predict(array(2, 1.0)), before)


def test_a_snapshot_cannot_be_changed():
    with pytest.raises(AttributeError, match="another snapshot"):
        numbered(1).version = 2


def test_probabilities_are_the_softmax():
    net = nn.Linear(4, 3)
    x = np.random.default_rng(0).random((5, 4), np.float32)
    expected = torch.softmax(net(torch.from_numpy(x)), 1).detach().numpy()
    np.testing.assert_allclose(Snapshot(1, net).predict(x), expected, rtol=1e-6)


def test_rows_that_cannot_be_written_are_taken():
    rows = array(2)
    rows.flags.writeable = False
    assert Snapshot(1, nn.Linear(4, 3)).predict(rows).shape == (2, 3)


def test_a_model_that_wants_the_task_gets_it():
    class Tasked(nn.Module):
        def forward(self, x, task):
            return torch.stack([task, task], 1).float()

    snapshot = Snapshot(1, Tasked(), probabilities=False)
    assert snapshot.predict(array(2)).tolist() == [[-1, -1], [-1, -1]]
    assert snapshot.predict(array(2), np.array([5, 6])).tolist() == [[5, 5], [6, 6]]


def test_a_model_must_give_one_output_a_row():
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    class Flat(nn.Module):
        def forward(self, x):
            return x.sum(1)

    with pytest.raises(ValueError, match="version 1 gives"):
        Snapshot(1, Sum(), probabilities=False).predict(array(2))
    with pytest.raises(ValueError, match="probabilities=False"):
        Snapshot(1, Flat()).predict(array(2))
    assert Snapshot(1, Flat(), probabilities=False).predict(array(2)).shape == (2,)


def test_the_champion_stands_in_for_a_missing_challenger():
    holder = Holder(numbered(1))
    assert holder.of("challenger").version == 1
    holder.challenger = numbered(2)
    assert (holder.of("champion").version, holder.of("challenger").version) == (1, 2)


def test_constant_is_what_it_says():
    assert Constant(2)(torch.zeros(2, 4)).tolist() == [[2.0] * 3] * 2
