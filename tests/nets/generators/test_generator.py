import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifelong.core.errors import InvalidBatch
from lifelong.nets.generators import GAN, VAE, Diffusion, Generator, LatentDiffusion, check_rows
from lifelong.nets.generators.generator import layers_of

KINDS = [VAE, GAN, Diffusion, LatentDiffusion]


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [16.0, 255.0])
def test_bytes_come_back_as_they_went_in(scale):
    net = Generator((1, 4, 4), scale=scale, bytes=True)
    x = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    u = net.inward(x)
    torch.testing.assert_close(u, x.flatten(1) / scale)
    assert torch.equal(net.outward(u), x)
    assert net.outward(u).dtype == torch.uint8


def test_what_is_made_beyond_the_bounds_is_cut():
    made = Generator((3,), scale=2.0).outward(torch.tensor([[-0.5, 0.5, 1.5]]))
    assert made.tolist() == [[0.0, 1.0, 2.0]]


@given(st.floats(-1e3, 1e3), st.floats(0.1, 1e3))
def test_unbounded_rows_are_standardised_by_the_first_ones(center, spread):
    net = Generator((2, 3))
    x = center + spread * torch.randn(50, 2, 3, generator=chance())
    net.fit(x)
    u = net.inward(x)
    assert abs(float(u.mean())) < 1e-2
    assert abs(float(u.std(unbiased=False)) - 1) < 1e-2
    torch.testing.assert_close(net.outward(u), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("x", "scale", "told"),
    [
        ({"a": torch.zeros(2, 1)}, None, r"a dict of \['a'\]"),
        (torch.zeros(2, 3, dtype=torch.int64), None, r"torch.int64 of shape \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.bool), None, "torch.bool"),
        (torch.zeros(2), None, r"shape \(2,\)"),
        (torch.tensor([[0.0, 1.5]]), 1.0, "spans 0 to 1.5"),
        (torch.tensor([[-0.5, 1.0]]), 1.0, "spans -0.5 to 1"),
        (torch.tensor([[17]], dtype=torch.uint8), 16.0, "scale of 16"),
    ],
)
def test_rows_that_cannot_be_made_are_refused(x, scale, told):
    with pytest.raises(InvalidBatch, match=told):
        check_rows(x, scale)


def test_rows_that_can_be_made_are_taken():
    check_rows(torch.tensor([[255]], dtype=torch.uint8), None)
    check_rows(torch.tensor([[-1e9, 1e9]]), None)
    check_rows(torch.tensor([[0.0, 1.0]]), 1.0)


@pytest.mark.parametrize(("shape", "scale"), [((), None), ((0, 3), None), ((3,), 0.0), ((3,), -1)])
def test_shapes_and_scales_without_sense_are_refused(shape, scale):
    with pytest.raises(ValueError, match=r"shape|scale"):
        Generator(shape, scale=scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale", "bytes"), [(255.0, True), (1.0, False), (None, False)])
def test_every_kind_gives_a_loss_a_row_and_rows_from_its_chance_alone(kind, scale, bytes):
    net = kind((1, 2, 3), hidden=(8, 8), scale=scale, bytes=bytes)
    x = torch.rand(5, 1, 2, 3, generator=chance())
    x = (255 * x).to(torch.uint8) if bytes else x
    net.fit(x)
    before = torch.get_rng_state()
    losses = net.loss(x, torch.zeros(5).long(), chance(1))
    assert losses.shape == (5,)
    assert torch.equal(losses, net.loss(x, torch.zeros(5).long(), chance(1)))
    losses.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        made, again = (net.sample(7, chance(2)) for _ in range(2))
    assert (made.shape, made.dtype) == ((7, 1, 2, 3), x.dtype)
    assert torch.equal(made, again)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "sizes", "lr"),
    [
        (VAE, {"latents": 4}, 1e-2),
        (GAN, {"latents": 4}, 2e-3),
        (Diffusion, {"steps": 20}, 1e-2),
        (LatentDiffusion, {"latents": 4, "denoiser": (32, 32), "steps": 5}, 1e-2),
    ],
)
def test_every_kind_learns_where_rows_lie(kind, sizes, lr):
    """Two heaps far apart in four dimensions: what is made lies by one or the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kind((4,), hidden=(32, 32), **sizes)
    c = chance()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=net.betas)
    x = torch.randn(256, 4, generator=c) * 0.1 + torch.tensor([[2.0], [-2.0]]).repeat(128, 1)
    net.fit(x)
    for _ in range(250):
        rows = x[torch.randint(256, (64,), generator=c)]
        optimizer.zero_grad()
        net.loss(rows, torch.zeros(64).long(), c).mean().backward()
        optimizer.step()
    with torch.no_grad():
        made = net.sample(200, c)
    high, low = ((made - at).norm(dim=1) < 1.5 for at in (2.0, -2.0))
    assert float((high | low).float().mean()) > 0.6
    assert min(int(high.sum()), int(low.sum())) > 30


def test_layers_end_linear():
    assert [type(layer).__name__ for layer in layers_of(4, 3, 2, slope=0.2)] == [
        "Linear",
        "LeakyReLU",
        "Linear",
    ]
