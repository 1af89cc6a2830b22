import math

import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from lifelong.nets.generators import VAE


def parts(vae, x, seed):
    """What torch's distributions make of the same draw."""
    u = vae.inward(x)
    mean, log_variance = vae.encoder(u).chunk(2, 1)
    q = Normal(mean, (log_variance / 2).exp())
    z = mean + torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)) * q.scale
    return u, kl_divergence(q, Normal(0.0, 1.0)).sum(1), vae.decoder(z)


def test_the_loss_of_bounded_rows_is_the_bernoulli_bound():
    vae = VAE((2, 3), hidden=(5,), latents=2, divergence=0.7, scale=255.0, bytes=True)
    x = torch.tensor([[[0, 255, 0], [255, 255, 0]], [[255, 0, 0], [0, 0, 255]]]).to(torch.uint8)
    u, divergence, made = parts(vae, x, 3)
    log_p = Independent(Bernoulli(logits=made), 1).log_prob(u)
    loss = vae.loss(x, torch.zeros(2), torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss, (0.7 * divergence - log_p) / 6)


def test_the_loss_of_other_rows_is_the_normal_bound():
    vae = VAE((4,), hidden=(5,), latents=2)
    torch.nn.init.normal_(vae.log_variance, generator=torch.Generator().manual_seed(1))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    vae.fit(x)
    u, divergence, made = parts(vae, x, 3)
    p = Independent(Normal(made, (vae.log_variance / 2).exp()), 1)
    loss = vae.loss(x, torch.zeros(6), torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss, (divergence - p.log_prob(u)) / 4)


def test_samples_of_unbounded_rows_have_the_learned_noise():
    vae = VAE((3,), hidden=(4,), latents=2)
    with torch.no_grad():
        for p in vae.decoder.parameters():
            p.zero_()
        vae.log_variance.copy_(2 * torch.tensor([1.0, 2.0, 3.0]).log())
        made = vae.sample(20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.std(0), torch.tensor([1.0, 2.0, 3.0]), rtol=0.03, atol=0)
    assert math.isclose(float(made.mean()), 0.0, abs_tol=0.05)
