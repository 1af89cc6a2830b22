import pytest
import torch

from lifelong.nets.generators import Diffusion, LatentDiffusion


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


class OnePoint(Diffusion):
    """Knows that all rows are one point."""

    point = torch.tensor([0.3, -0.2, 0.9])

    def clean(self, x, t):
        return self.point.expand(len(x), -1)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_what_is_known_to_be_clean_is_what_is_made(steps):
    made = OnePoint((3,), hidden=(4,), steps=steps).sample(4, chance())
    torch.testing.assert_close(made, OnePoint.point.expand(4, -1), atol=1e-5, rtol=1e-5)


def test_bounded_rows_are_balanced_around_zero():
    made = OnePoint((3,), hidden=(4,), steps=3, scale=10.0).sample(2, chance())
    torch.testing.assert_close(made[0], 10 * (OnePoint.point + 1) / 2)


class Normal(Diffusion):
    """Knows the best guess where rows are N(0, spread**2): E[x | x_t]."""

    def clean(self, x, t):
        cosine, sine = t.cos()[:, None], t.sin()[:, None]
        variance = 2.0**2
        return variance * cosine / (variance * cosine**2 + sine**2) * x


def test_with_the_best_guess_samples_have_the_rows_spread():
    made = Normal((1,), hidden=(4,), steps=200).sample(20000, chance())
    assert abs(float(made.std()) - 2.0) < 0.06
    assert abs(float(made.mean())) < 0.06


def test_the_loss_is_the_error_of_the_velocity_which_is_that_of_the_clean_row_weighted():
    net = Diffusion((3,), hidden=(4,))
    x = torch.randn(500, 3, generator=chance())
    c = chance(5)
    t = torch.rand(500, generator=c) * (torch.pi / 2)
    noise = torch.randn(500, 3, generator=c)
    noisy = t.cos()[:, None] * x + t.sin()[:, None] * noise
    expected = ((net.clean(noisy, t) - x) ** 2).mean(1) / t.sin() ** 2
    found = net.loss(x, torch.zeros(500), chance(5))
    velocity = t.cos()[:, None] * noise - t.sin()[:, None] * x
    torch.testing.assert_close(found, ((velocity - net.velocity(noisy, t)) ** 2).mean(1))
    far = t > 0.05  # from where on the division is harmless
    torch.testing.assert_close(found[far], expected[far], rtol=1e-3, atol=1e-4)


def test_one_that_knows_nothing_makes_noise_of_the_rows_spread():
    net = Diffusion((3,), hidden=(4,), steps=20)
    torch.nn.init.zeros_(net.output.weight)
    torch.nn.init.zeros_(net.output.bias)
    made = net.sample(5000, chance())
    assert abs(float(made.detach().std()) - 0.94) < 0.02  # cos(pi / 40)**20


def test_steps_must_be_positive():
    with pytest.raises(ValueError, match="steps is 0"):
        Diffusion((3,), steps=0)


def test_the_latent_loss_adds_both_and_leaves_the_encoder_to_the_autoencoder():
    net = LatentDiffusion((4,), hidden=(6,), latents=2, denoiser=(5,), scale=1.0)
    x = torch.rand(6, 4, generator=chance())
    net.loss(x, torch.zeros(6), chance(1)).sum().backward()
    found = [p.grad.clone() for p in net.vae.parameters()]
    net.zero_grad()
    net.vae.loss(x, torch.zeros(6), chance(1)).sum().backward()
    for one, p in zip(found, net.vae.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad)
    assert all(p.grad is None or not p.grad.any() for p in net.diffusion.parameters())
