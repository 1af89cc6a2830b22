"""Importance against its definition: one forward and backward pass for each row."""

import copy
import math
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lifelong.core.batch import Batch
from lifelong.core.errors import EmptyTask, NonFiniteLoss
from lifelong.core.forward import forward, wants_task
from lifelong.core.importance import fisher, output_sensitivity, row_gradient_moment


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(output, batch.y, reduction="none")


def brute_force(model: nn.Module, rows_loss: Callable, batches: Iterable[Batch], power: int):
    """The definition, in float64."""
    model = copy.deepcopy(model).double().eval()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    rows = 0
    for batch in batches:
        for n in range(len(batch)):
            row = batch.rows(slice(n, n + 1))
            x = {k: _double(v) for k, v in row.x.items()} if isinstance(row.x, dict) else row.x
            x = _double(x) if isinstance(x, Tensor) else x
            losses = rows_loss(forward(model, x, row.task if wants_task(model) else None), row)
            for loss in [losses] if isinstance(losses, Tensor) else list(losses):
                found = torch.autograd.grad(
                    loss.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
                )
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        sums[name] += gradient.to_dense().abs() ** power
            rows += 1
    return {name: total / rows for name, total in sums.items()}


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def assert_equal(mine: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float = 1e-5):
    assert mine.keys() == truth.keys()
    for name, expected in truth.items():
        error = (mine[name].double() - expected).norm()
        assert error <= tolerance * expected.norm() + 1e-300, name


def check(model: nn.Module, batches: list[Batch], rows_loss: Callable = cross_entropy) -> None:
    """Both powers in float32 to 1e-5, and in float64 to 1e-12."""
    for power in (1, 2):
        truth = brute_force(model, rows_loss, batches, power)
        assert_equal(row_gradient_moment(model, rows_loss, batches, power=power), truth)
        wide = [
            Batch.of(
                {k: _double(v) for k, v in b.x.items()} if isinstance(b.x, dict) else _double(b.x),
                b.y,
                b.task,
            )
            for b in batches
        ]
        mine = row_gradient_moment(copy.deepcopy(model).double(), rows_loss, wide, power=power)
        assert_equal(mine, truth, 1e-12)


def images(*shape: int, classes: int = 4, sizes: tuple[int, ...] = (7, 3)) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch.of(
            torch.randn(rows, *shape, generator=generator),
            torch.randint(classes, (rows,), generator=generator),
        )
        for rows in sizes
    ]


def tokens(length: int = 5, vocabulary: int = 6) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        Batch.of(
            torch.randint(vocabulary, (rows, length), generator=generator),
            torch.randint(4, (rows,), generator=generator),
        )
        for rows in (6, 5)  # 5 rows of 5 tokens: a transposed input has rows of the right number
    ]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Through(nn.Module):
    """Modules by name, and how they are used."""

    def __init__(self, use: Callable, **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def worn(model: nn.Module) -> nn.Module:
    """Give norms statistics and affine parameters other than those they start with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model


class Transposed(nn.Module):
    """Positions before rows, as `nn.TransformerEncoderLayer` without batch_first sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(self.embed(x.T)).tanh()  # (positions, rows, 8)
        return self.head(hidden.mean(0))


class Flattened(nn.Module):
    """Rows and positions in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.reshape(-1, 3)).tanh().reshape(len(x), -1, 5).sum(1))


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weight.sum()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


class Referenced(nn.Module):
    """Reaches a parameter through a reference that `functional_call` cannot put another into."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(4, 3))
        self.kept = [self.free]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kept[0]) + F.linear(x.sin(), self.free)


class Branching(nn.Module):
    """Branches on values, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x if x.abs().max() > 0 else x + 1, self.free)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 4)
    )


def convolutional() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(6, 6, (3, 2), stride=2, groups=3, padding="valid"),
        nn.GroupNorm(2, 6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3, dilation=2, padding="same", padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4),
        nn.Linear(4, 4),
    )
    return worn(net)


def transformer() -> nn.Module:
    return worn(
        Through(
            lambda m, x: m.head(m.layer(m.embed(x) + m.place(torch.arange(x.shape[1]))).mean(1)),
            embed=nn.Embedding(6, 8, padding_idx=0),
            place=nn.Embedding(5, 8),
            layer=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
            head=nn.Linear(8, 4),
        )
    )


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(nn.Linear(3, 4), first, nn.Tanh(), second)


def frozen() -> nn.Module:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[2].requires_grad_(False)
    return model


LINEAR = {"inner": nn.Linear(3, 3), "head": nn.Linear(3, 4)}
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Batch]]]] = {
    "mlp": (mlp, lambda: images(3)),
    "frozen": (frozen, lambda: images(3)),
    "convolutional": (convolutional, lambda: images(3, 9, 8)),
    "embedding": (
        lambda: Through(
            lambda m, x: m.head(m.embed(x).tanh().sum(1)),
            embed=nn.Embedding(6, 5, padding_idx=2),
            head=nn.Linear(5, 4),
        ),
        tokens,
    ),
    "sparse embedding": (
        lambda: Through(
            lambda m, x: m.head(m.embed(x).tanh().sum(1)),
            embed=nn.Embedding(6, 5, sparse=True),
            head=nn.Linear(5, 4),
        ),
        tokens,
    ),
    "transformer": (transformer, tokens),
    "transposed": (Transposed, tokens),
    "flattened": (Flattened, lambda: images(2, 3)),
    "layer norm over positions": (
        lambda: worn(
            nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Flatten(), nn.Linear(30, 4))
        ),
        lambda: images(5, 3),
    ),
    "1d": (
        lambda: worn(
            nn.Sequential(
                nn.Conv1d(2, 4, 3, padding=1, groups=2),
                nn.BatchNorm1d(4),
                nn.GELU(),
                nn.Conv1d(4, 4, 2, stride=2),
                nn.Flatten(),
                nn.LayerNorm(16),
                nn.Linear(16, 4),
            )
        ),
        lambda: images(2, 8),
    ),
    "3d": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 4, 2, stride=(1, 2, 1)),
            nn.ReLU(),
            nn.Flatten(2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        ),
        lambda: images(2, 3, 4, 3),
    ),
    "tied": (tied, lambda: images(3)),
    "called twice": (
        lambda: Through(lambda m, x: m.head(m.inner(m.inner(x).tanh())), **copy.deepcopy(LINEAR)),
        lambda: images(3),
    ),
    "used outside its module": (
        lambda: Through(
            lambda m, x: m.head(F.linear(m.inner(x).tanh(), m.inner.weight)),
            **copy.deepcopy(LINEAR),
        ),
        lambda: images(3),
    ),
    "bare parameter": (
        lambda: Through(
            lambda m, x: m.head(x) * m.gain, head=nn.Linear(3, 4), gain=nn.Parameter(torch.randn(4))
        ),
        lambda: images(3),
    ),
    "unused": (
        lambda: Through(lambda m, x: m.head(x), head=nn.Linear(3, 4), idle=nn.Linear(2, 2)),
        lambda: images(3),
    ),
    "parametrized": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))),
        lambda: images(3),
    ),
    "own forward": (lambda: nn.Sequential(OwnForward(3, 4)), lambda: images(3)),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: images(2, 3, 3),
    ),
    "recurrent": (Recurrent, lambda: images(5, 3)),
    "reference": (Referenced, lambda: images(3)),
    "branching": (Branching, lambda: images(3)),
    "single rows": (Flattened, lambda: images(1, 3, sizes=(1, 1, 4))),
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_one_backward_pass_a_row(name):
    make, data = MODELS[name]
    check(make(), data())


def test_a_long_batch_is_checked_on_few_rows_and_cut_into_chunks():
    model = nn.Sequential(nn.Conv2d(2, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 40))
    check(model, images(2, 10, 10, classes=40, sizes=(50,)))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch, on even kernels
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_convolution(data):
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    dims = draw(1, 2)
    groups = draw(1, 3)
    kernel = tuple(draw(1, 3) for _ in range(dims))
    stride = tuple(draw(1, 3) for _ in range(dims))
    dilation = tuple(draw(1, 2) for _ in range(dims))
    padding = data.draw(st.sampled_from(["valid", "same", "pairs"]))
    if padding == "same":
        stride = (1,) * dims
    elif padding == "pairs":
        padding = tuple(draw(0, 2) for _ in range(dims))
    mode = data.draw(st.sampled_from(["zeros", "circular", "replicate", "reflect"]))
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    layer = kind(
        groups * draw(1, 2), groups * draw(1, 2), kernel, stride, padding, dilation, groups,
        bias=data.draw(st.booleans()), padding_mode=mode,
    ).double()  # fmt: skip
    sizes = tuple(draw(5, 7) for _ in range(dims))
    x = torch.randn(3, layer.in_channels, *sizes, dtype=torch.float64)
    batch = Batch.of(x, torch.zeros(3))

    def loss(output: Tensor, batch: Batch) -> Tensor:
        return output.flatten(1).sin().sum(1)

    for power in (1, 2):
        mine = row_gradient_moment(layer, loss, [batch], power=power)
        assert_equal(mine, brute_force(layer, loss, [batch], power), 1e-11)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.a(left).tanh() + self.b(right)


def test_inputs_by_name():
    x = {"left": torch.randn(6, 3), "right": torch.randn(6, 2)}
    check(TwoInputs(), [Batch.of(x, torch.randint(4, (6,)))])


class Heads(nn.Module):
    """A head for each task, and a gain for each that is looked up by it."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.heads = nn.ModuleList(nn.Linear(5, 4) for _ in range(3))
        self.gain = nn.Parameter(torch.randn(3, 4))
        self.branch = branch

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        hidden = self.body(x).tanh()
        output = hidden.new_zeros(len(x), 4)
        for t, head in enumerate(self.heads):
            own = (task == t).unsqueeze(1)
            if not self.branch or own.any():
                output = output + head(hidden) * own
        return output * self.gain[task]


@pytest.mark.parametrize("branch", [False, True])
def test_tasks_row_by_row(branch):
    x, y = torch.randn(12, 3), torch.randint(4, (12,))
    late = torch.tensor([0] * 9 + [1] * 3)  # task 1 is not among the rows that are checked
    mixed = torch.tensor([0, 1, 2] * 4)
    check(Heads(branch), [Batch.of(x, y, late), Batch.of(x, y, 2), Batch.of(x, y, mixed)])


def test_the_batch_size_does_not_matter():
    model, (batch,) = convolutional(), images(3, 9, 8, sizes=(12,))
    whole = fisher(model, [batch])
    parts = fisher(model, [batch.rows(slice(0, 5)), batch.rows(slice(5, 12))])
    assert_equal(parts, {name: values.double() for name, values in whole.items()})


def test_true_fisher_is_its_definition():
    model, batches = mlp(), images(3)

    def expected(output: Tensor, batch: Batch):
        log_p = output.log_softmax(1)
        for c in range(4):
            yield log_p[:, c] * log_p[:, c].exp().sqrt().detach()

    truth = brute_force(model, expected, batches, 2)
    assert_equal(fisher(model, batches, kind="true"), truth)
    assert_equal(fisher(model, batches, kind="true", loss=cross_entropy), truth)


def test_true_fisher_through_vmap_and_of_a_closed_form():
    # For logits theta alone, F = diag(p) - p p^T.
    model = Through(lambda m, x: m.theta + 0 * x, theta=nn.Parameter(torch.randn(4)))
    (batch,) = images(4, sizes=(3,))
    p = model.theta.detach().softmax(0)
    torch.testing.assert_close(fisher(model, [batch], kind="true")["theta"], p - p**2)


def test_classes_that_cannot_be_add_nothing_to_the_true_fisher():
    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(torch.arange(4) == 3, -math.inf)

    model = Masked(3, 4)
    three = nn.Linear(3, 3)
    three.load_state_dict({name: values[:3] for name, values in model.state_dict().items()})
    mine = fisher(model, images(3), kind="true")
    for name, values in fisher(three, images(3), kind="true").items():
        torch.testing.assert_close(mine[name][:3], values)
        assert not mine[name][3].any()


def test_sampled_fisher_repeats_and_tends_to_the_true_one():
    model, (batch,) = mlp(), images(3, sizes=(4,))
    many = batch.rows(torch.arange(4).repeat(5000))

    def sampled(seed: int, loss=None):
        generator = torch.Generator().manual_seed(seed)
        return fisher(model, [many], kind="sampled", generator=generator, loss=loss)

    first = sampled(0)
    assert_equal(sampled(0), {n: f.double() for n, f in first.items()}, 0)
    assert_equal(sampled(0, cross_entropy), {n: f.double() for n, f in first.items()}, 1e-3)
    assert not torch.equal(sampled(1)["0.weight"], first["0.weight"])
    truth = fisher(model, [batch], kind="true")
    assert_equal(first, {n: f.double() for n, f in truth.items()}, 0.1)


def test_output_sensitivity_is_mas():
    model, batches = convolutional(), images(3, 9, 8)
    squared = lambda output, batch: output.square().sum(1)  # noqa: E731
    assert_equal(output_sensitivity(model, batches), brute_force(model, squared, batches, 1))


def test_sequences_of_labels():
    model = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (4, 2)))
    batch = Batch.of(torch.randn(5, 3), torch.randint(4, (5, 2)))
    loss = lambda output, batch: cross_entropy(output, batch).sum(1)  # noqa: E731
    assert_equal(fisher(model, [batch]), brute_force(model, loss, [batch], 2))


class Restless(nn.Module):
    """Counts its calls in buffers, and draws random numbers even in eval mode."""

    def __init__(self, error: bool) -> None:
        super().__init__()
        self.linear, self.gain = nn.Linear(3, 4), nn.Parameter(torch.ones(4))
        self.dropout = nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.replaced = self.replaced + 1
        if self.error:
            raise KeyError("forward")
        return self.dropout(self.linear(x)) * self.gain + 0 * torch.rand(4)


@pytest.mark.parametrize("error", [False, True])
def test_nothing_is_left_behind(error):
    model = Restless(error)
    model.dropout.eval()
    model.linear.bias.requires_grad_(False)
    model.linear.weight.grad = torch.ones(4, 3)
    flags = [module.training for module in model.modules()]
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    (batch,) = images(3, sizes=(5,))
    before = copy.deepcopy(batch)
    if error:
        with pytest.raises(KeyError):
            fisher(model, [batch])
    else:
        generator = torch.Generator().manual_seed(0)
        fisher(model, [batch], kind="sampled", generator=generator)
    assert flags == [module.training for module in model.modules()] == [True, True, False]
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model.linear.weight.grad, torch.ones(4, 3))
    assert model.gain.grad is None
    assert [p.requires_grad for p in model.parameters()] == [True, True, False]
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(before.x, batch.x)


def test_works_without_gradients_switched_on():
    model, batches = mlp(), images(3)
    truth = fisher(model, batches)
    with torch.no_grad():
        assert torch.equal(fisher(model, batches)["0.weight"], truth["0.weight"])
    with torch.inference_mode():
        assert torch.equal(fisher(model, batches)["0.weight"], truth["0.weight"])
    assert not truth["0.weight"].requires_grad


def test_a_model_without_trainable_parameters_has_no_importance():
    assert fisher(mlp().requires_grad_(False), images(3)) == {}


def test_narrow_parameters_are_measured_in_float32():
    model = mlp().bfloat16()
    batches = [Batch.of(b.x.bfloat16(), b.y) for b in images(3)]
    mine = fisher(model, batches)
    assert {values.dtype for values in mine.values()} == {torch.float32}
    assert_equal(mine, brute_force(model, cross_entropy, batches, 2), 0.1)


def test_errors():
    model, batches = mlp(), images(3)
    with pytest.raises(EmptyTask, match="no batches"):
        fisher(model, [])
    with pytest.raises(ValueError, match="power is 3"):
        row_gradient_moment(model, cross_entropy, batches, power=3)
    with pytest.raises(ValueError, match="one value for each row"):
        fisher(model, batches, loss=lambda output, batch: F.cross_entropy(output, batch.y))
    with pytest.raises(ValueError, match="'approximate'"):
        fisher(model, batches, kind="approximate")
    with pytest.raises(ValueError, match="generator"):
        fisher(model, batches, kind="sampled")
    with pytest.raises(ValueError, match="empirical"):
        fisher(nn.Unflatten(1, (3, 1)), batches, kind="sampled", generator=torch.Generator())
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    with pytest.raises(ValueError, match="1 has no running statistics"):
        fisher(nn.Sequential(nn.Linear(3, 3), norm), batches)


@pytest.mark.parametrize("kind", ["empirical", "true", "sampled"])
def test_a_gradient_that_is_not_finite_is_named(kind):
    model, batches = mlp(), images(3)
    with torch.no_grad():
        model[4].weight[0, 0] = math.inf
    names = "probabilities" if kind == "sampled" else "0.weight"
    with pytest.raises(NonFiniteLoss, match=names):
        fisher(model, batches, kind=kind, generator=torch.Generator())
