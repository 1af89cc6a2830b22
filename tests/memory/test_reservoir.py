import pytest
import torch
from shown import Shown, chi_square

from lifelong.memory import Reservoir


def reference_reservoir(capacity: int, chance: list[float]) -> list[int]:
    slots: list[int] = []
    for row, u in enumerate(chance):
        if row < capacity:
            slots.append(row)
        elif (place := int(u * (row + 1))) < capacity:
            slots[place] = row
    return slots


@pytest.mark.parametrize("batches", [[60], [1] * 60, [7, 13, 1, 39]])
def test_reservoir_equals_algorithm_r_row_by_row(batches: list[int]) -> None:
    shown, twin = Shown(Reservoir(10)), torch.Generator().manual_seed(0)
    chance: list[float] = []
    for batch in batches:
        if len(chance) + batch <= 10:
            chance += [0.0] * batch  # all are taken: nothing is drawn
        else:
            chance += torch.rand(batch, generator=twin, dtype=torch.float64).tolist()
        shown.offer([0] * batch)
    assert [shown.rows[slot][0] for slot in range(10)] == reference_reservoir(10, chance)


@pytest.mark.parametrize("batches", [[40], [1] * 40, [3, 10, 1, 6, 20]])
@pytest.mark.parametrize("reload", [False, True])
def test_reservoir_is_uniform(batches: list[int], reload: bool) -> None:
    chance, counts = torch.Generator().manual_seed(1), torch.zeros(40)
    for _ in range(1500 if len(batches) < 40 else 400):
        policy, rows = Reservoir(8), torch.full((8,), -1)
        offered = 0
        for number, batch in enumerate(batches):
            slots, source = policy.place(None, batch, chance)
            new = torch.arange(offered, offered + batch)
            rows[slots] = new if source is None else new[source]
            offered += batch
            if reload and number == len(batches) // 2:
                state, policy = policy.state_dict(), Reservoir(8)
                policy.load_state_dict(state)
        counts[rows] += 1
    # rows exclude each other, so the statistic is a little below chi-square's; 3.5 is p < 0.001
    assert chi_square(counts) < 3.5
