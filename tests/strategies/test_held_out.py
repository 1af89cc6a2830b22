import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategy_models import batches_of, learner_of

from lifelong import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.strategies.held_out import check_held, columns_of, forgotten, right, withhold


def keyed(keys) -> Batch:
    keys = torch.tensor(keys)
    return Batch.of(torch.rand(len(keys), 3), torch.zeros(len(keys)).long(), 0, keys)


@given(st.lists(st.integers(-1, 10**9), min_size=1, max_size=60), st.floats(0.01, 0.5))
def test_a_row_is_held_out_or_learned_never_both_and_always_the_same_way(keys, share):
    rest, held = withhold(keyed(keys), share)
    out = [] if held is None else held.key.tolist()
    assert sorted(rest.key.tolist() + out) == sorted(keys)
    assert len(rest) > 0
    assert -1 not in out
    again = withhold(keyed(list(range(1000)) + out), share)[1]
    assert again is not None
    assert set(out) <= set(again.key.tolist())


def test_rows_are_not_taken_from_a_batch_that_others_have_extended():
    with pytest.raises(InvalidBatch, match=r"put what holds rows out .* first in the list"):
        withhold(keyed([1]).extended(keyed([2])), 0.5)


def test_a_row_is_right_when_the_model_says_its_class():
    learner, batch = learner_of([]), batches_of(1)[0]
    told = learner.predict(batch.x).argmax(1)
    other = told.where(torch.arange(6) < 2, (told + 1) % 4)
    rows = Batch.of(batch.x, other, 0, batch.key)
    assert right(learner, columns_of(rows)).tolist() == [True] * 2 + [False] * 4
    with pytest.raises(InvalidBatch, match="held-out rows are counted by right answers"):
        right(learner, columns_of(Batch.of(batch.x, torch.rand(6))))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=30))
def test_forgetting_is_the_mean_drop_over_rows_of_earlier_periods(rows):
    held = {
        "period": torch.tensor([row[0] for row in rows], dtype=torch.int64),
        "right": torch.tensor([row[1] for row in rows], dtype=torch.bool),
    }
    found = torch.tensor([row[2] for row in rows], dtype=torch.bool)
    old = [int(then) - int(now) for period, then, now in rows if period < 2]
    expected = sum(old) / len(old) if old else 0.0
    assert forgotten(held, found, 2) == pytest.approx(expected, abs=1e-6)


def test_a_held_out_row_that_is_not_finite_is_named_by_its_place():
    batch = keyed(list(range(40)))
    held = withhold(batch, 0.3)[1]
    assert held is not None
    place = int(held.key[1])
    batch.x[place, 0] = torch.nan
    with pytest.raises(InvalidBatch, match=rf"x holds NaN .* in 1 of 40 rows \({place}\)"):
        withhold(batch, 0.3)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(3), r"outputs of shape \(3,\)"),
        ({"a": torch.zeros(3, 8)}, "outputs in a dict"),
        (torch.zeros(3, 8), "labels span 1 to 8"),
    ],
)
def test_held_out_rows_want_an_output_for_their_label(output, told):
    rows = Batch.of(torch.zeros(2, 1), torch.tensor([1, 8]))
    with pytest.raises(InvalidBatch, match=told):
        check_held(rows, output)
    check_held(rows, torch.zeros(3, 9))
    check_held(None, output)
