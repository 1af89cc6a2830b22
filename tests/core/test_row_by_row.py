import pytest
import torch
from torch import Tensor, nn

from lifelong.core import row_by_row
from lifelong.core.batch import Batch
from lifelong.core.row_by_row import looped_row_powers, vmapped_row_powers


class Scored(nn.Module):
    """Two losses a row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        output = batch.x * self.weight
        return output[:, 0].square(), output.sum(1)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("held", [1, 5, 1 << 24])
def test_powers_add_up_over_rows_and_losses(monkeypatch, power, held):
    monkeypatch.setattr(row_by_row, "_HELD_VALUES", held)
    scored = Scored()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch.of(x, torch.zeros(5))
    first = torch.stack([2 * 2.0 * x[:, 0] ** 2, torch.zeros(5)], 1)
    truth = (first.abs() ** power + x.abs() ** power).sum(0)
    chosen = {"weight": scored.weight}
    powers, sums = vmapped_row_powers(scored, chosen, batch, power)
    torch.testing.assert_close(powers["weight"], truth)
    torch.testing.assert_close(sums["weight"], (first + x).sum(0))
    looped = looped_row_powers(scored, chosen, batch, power)
    torch.testing.assert_close(looped["weight"], truth)
