import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifelong import Batch
from lifelong.strategies.sample import sampled


def numbered(lengths):
    data, start = [], 0
    for rows in lengths:
        numbers = torch.arange(start, start + rows)
        data.append(Batch.of(numbers.float(), numbers, key=numbers))
        start += rows
    return data


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    rows=st.integers(1, 400),
    seed=st.integers(0, 9),
)
def test_rows_are_drawn_once_each_whole_and_in_order(lengths, rows, seed):
    drawn = list(sampled(numbered(lengths), rows, torch.Generator().manual_seed(seed)))
    keys = torch.cat([batch.key for batch in drawn]).tolist()
    assert len(keys) == min(rows, sum(lengths))
    assert keys == sorted(set(keys))
    for batch in drawn:
        assert batch.new == len(batch)
        assert torch.equal(batch.x, batch.key.float())
        assert torch.equal(batch.y, batch.key)


def test_every_row_is_as_likely_also_where_batches_are_sorted():
    data, chance = numbered([30, 30, 40]), torch.Generator().manual_seed(0)
    counts = torch.zeros(100)
    for _ in range(2000):
        for batch in sampled(data, 10, chance):
            counts[batch.key] += 1
    expected = 2000 * 10 / 100
    squared = ((counts - expected) ** 2 / (expected * 0.9)).sum()
    assert squared < 150  # chi-squared of 99 degrees of freedom: p < 0.001 beyond 149


@pytest.mark.parametrize("rows", [None, 100, 1000])
def test_all_of_them_are_given_as_they_are(rows):
    data = numbered([60, 40])
    assert sampled(data, rows, torch.Generator()) is data
