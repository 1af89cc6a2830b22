import numpy as np
import torch
from shown import chi_square

from lifelong.memory.sampling import distinct


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
