import numpy as np
import torch
from shown import chi_square

from lifelong.memory.sampling import distinct, keep_last, replaced, sample


def test_distinct_is_uniform_and_ordered_at_random() -> None:
    chance, scratch = torch.Generator().manual_seed(0), np.empty(50, dtype=np.int32)
    for rows, among in ((3, 50), (10, 50), (30, 50)):
        counts, first = torch.zeros(among), torch.zeros(among)
        for _ in range(4000):
            drawn = distinct(rows, among, chance, scratch)
            assert len(set(drawn.tolist())) == rows
            counts[drawn] += 1
            first[drawn[0]] += 1
        assert chi_square(counts) < 3.5
        assert chi_square(first) < 3.5


def test_a_loop_replaces_the_rows_that_arrays_do() -> None:
    chance, scratch = np.random.default_rng(0), np.empty(20, dtype=np.int32)
    some = 0
    for room, rows in ((20, 128), (20, 1), (7, 40), (1, 3)):
        for seen in (room, room + 1, 10 * room, 1000 * room):
            numbers = chance.random(rows)
            taken, places, held, now = sample(numbers, room, room, seen)
            slots, source = keep_last(places, taken, scratch)
            found = replaced(numbers.tolist(), room, seen)
            assert found == dict(zip(slots.tolist(), source.tolist(), strict=True))
            assert (held, now) == (room, seen + rows)
            some += len(found)
    assert some > 50
