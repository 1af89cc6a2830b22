"""Which parameters closed forms are trusted with; that all are right is tested in importance."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifelong.core import row_gradients
from lifelong.core.batch import Batch
from lifelong.core.row_gradients import RowMoments
from lifelong.core.undisturbed import undisturbed


def loss(output: Tensor, batch: Batch) -> Tensor:
    return output.reshape(len(batch), -1).sin().sum(1)


class Shared(nn.Module):
    """Uses a layer's weight a second time, faintly."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x) + 0.01 * F.linear(x.tanh(), self.inner.weight))


class Positions(nn.Module):
    """Mixes the rows' dimension with others before and after its layer."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.inner, self.transposed = nn.Linear(3, 4), transposed

    def forward(self, x: Tensor) -> Tensor:  # (rows, positions, 3)
        if self.transposed:
            return self.inner(x.transpose(0, 1)).transpose(0, 1)
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gain = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (self.gain if x.max() > 0 else 2 * self.gain)


class Opposed(nn.Module):
    """Attention with layers of its own; a bias of the keys changes nothing but by rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return scores.softmax(-1) @ self.value(x)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(inplace=True),
        nn.Conv2d(2, 4, 2, stride=2, groups=2),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 3),
        nn.BatchNorm1d(3),
    )


def transformer() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(5, 4), nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Linear(4, 2)
    )


ATTENTION = ["1.self_attn." + name for name in ("in_proj_bias", "in_proj_weight")]
ATTENTION += ["1.self_attn.out_proj." + name for name in ("bias", "weight")]
INNER = ["inner.bias", "inner.weight"]


@pytest.mark.parametrize(
    ("model", "x", "vmapped", "looped"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (5, 4), [], []),
        (net(), (12, 1, 4, 4), [], []),
        (nn.Sequential(nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Linear(3, 2)), (4, 1, 4), [], []),
        (Opposed(), (8, 6, 3), [], []),
        (transformer(), None, ATTENTION, []),
        (Shared(), (5, 4), ["inner.weight"], []),
        (Positions(transposed=True), (5, 4, 3), INNER, []),
        (Positions(transposed=True), (5, 5, 3), INNER, []),
        (Positions(transposed=True), (20, 8, 3), INNER, []),
        (Positions(transposed=False), (5, 4, 3), INNER, []),
        (Branching(), (5, 4), ["gain"], ["gain"]),
    ],
)
def test_closed_forms_take_what_they_are_right_for(monkeypatch, model, x, vmapped, looped):
    taken: dict[str, set[str]] = {"vmapped": set(), "looped": set()}
    for way in taken:
        real = getattr(row_gradients, f"{way}_row_powers")

        def spy(scored, chosen, batch, power, way=way, real=real):
            taken[way] |= set(chosen)
            return real(scored, chosen, batch, power)

        monkeypatch.setattr(row_gradients, f"{way}_row_powers", spy)
    random = torch.Generator().manual_seed(0)
    inputs = (
        torch.randint(5, (6, 3), generator=random)
        if x is None
        else torch.randn(x, generator=random)
    )
    with undisturbed(model):
        moments = RowMoments(model, loss, 2)
        moments.add(Batch.of(inputs, torch.zeros(len(inputs))))
    assert sorted(taken["vmapped"]) == [f"model.{name}" for name in vmapped]
    assert sorted(taken["looped"]) == [f"model.{name}" for name in looped]


def test_a_changed_number_of_rows_is_proven_anew():
    # One row of one position proves nothing about which dimension is which.
    model = Positions(transposed=True)
    x = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    with undisturbed(model):
        moments = RowMoments(model, loss, 2)
        moments.add(Batch.of(x[:1, :1], torch.zeros(1)))
        moments.add(Batch.of(x, torch.zeros(4)))
        whole = {name: total.clone() for name, total in moments.sums.items()}
        moments = RowMoments(model, loss, 2)
        moments.add(Batch.of(x[:1, :1], torch.zeros(1)))
        for row in x.split(1):
            moments.add(Batch.of(row, torch.zeros(1)))
    for name, total in moments.sums.items():
        torch.testing.assert_close(whole[name], total)


def moments_of(model: nn.Module, rows_loss, batches: list[Batch]) -> dict[str, Tensor]:
    with undisturbed(model):
        moments = RowMoments(model, rows_loss, 2)
        for batch in batches:
            moments.add(batch)
    return moments.sums


def test_a_loss_that_is_flat_at_first_proves_no_more_than_another():
    model, x = Shared(), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def scaled(output: Tensor, batch: Batch) -> Tensor:
        return loss(output, batch) * batch.y

    flat, steep = Batch.of(x, torch.zeros(6)), Batch.of(x, torch.ones(6))
    mine, truth = moments_of(model, scaled, [flat, steep]), moments_of(model, loss, [steep])
    for name, total in truth.items():
        torch.testing.assert_close(mine[name], total)


def test_a_loss_may_use_parameters_by_itself():
    model = nn.Linear(1, 1, bias=False)

    def decayed(output: Tensor, batch: Batch) -> Tensor:
        return output[:, 0] + 1e-2 * model.weight.square().sum()

    x = torch.tensor([[1.0], [-3.0], [2.0]])
    sums = moments_of(model, decayed, [Batch.of(x, torch.zeros(3))])
    truth = (x + 2e-2 * model.weight.detach()).square().sum().reshape(1, 1)
    torch.testing.assert_close(sums["weight"], truth)
