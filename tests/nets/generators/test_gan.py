import pytest
import torch
from torch.nn import functional as F

from lifelong.nets.generators import GAN


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**settings):
    return GAN((3,), hidden=(6,), latents=2, **settings)


@pytest.mark.parametrize("conditional", [False, True])
def test_one_backward_pass_gives_each_its_own_gradient(conditional):
    gan = small(penalty=0.3, conditional=conditional)
    x, y = torch.randn(5, 3, generator=chance()), torch.tensor([0, 1, 2, 0, 9])
    gan.loss(x, y, chance(1)).mean().backward()
    z = torch.randn(5, 2, generator=chance(1))

    real, fake = x.clone().requires_grad_(), gan.make(z, y).detach().requires_grad_()
    of_real, of_fake = gan.judge(real, y), gan.judge(fake, y)
    steep = torch.zeros(())
    for row in (0, 4):  # every fourth row counts, for all five
        for judged, at in ((of_real, real), (of_fake, fake)):
            (slope,) = torch.autograd.grad(judged[row], at, create_graph=True)
            steep = steep + (slope**2).sum()
    critic = F.softplus(of_fake - of_real).mean() + 0.3 / 2 * steep / 2
    names, parameters = zip(*gan.critic.named_parameters(), strict=True)
    own = torch.autograd.grad(critic, parameters, allow_unused=True)
    for name, p, expected in zip(names, parameters, own, strict=True):
        assert expected is not None or name.endswith("bias")
        expected = torch.zeros_like(p) if expected is None else expected
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-6)

    maker = F.softplus(gan.judge(x, y).detach() - gan.judge(gan.make(z, y), y)).mean()
    own = torch.autograd.grad(maker, list(gan.maker.parameters()))
    for p, expected in zip(gan.maker.parameters(), own, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_codes_of_classes_differ_and_are_the_same_in_every_copy():
    one, other = small(conditional=True), small(conditional=True)
    y = torch.arange(200)
    codes = one._told(torch.zeros(200, 0), y)
    assert torch.equal(codes, other._told(torch.zeros(200, 0), y))
    apart = torch.cdist(codes, codes) + 10 * torch.eye(200)
    assert float(apart.min()) > 1.0
    assert "turn" not in one.state_dict()


def test_classes_that_are_asked_for_must_be_told():
    with pytest.raises(ValueError, match="give their ids"):
        small(conditional=True).sample(2, chance())


def test_a_conditional_gan_makes_the_class_that_is_asked_for():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gan = GAN((2,), hidden=(32, 32), latents=4, conditional=True)
    c, at = chance(), torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    optimizer = torch.optim.Adam(gan.parameters(), lr=2e-3, betas=gan.betas)
    gan.fit(at.repeat(5, 1))
    for _ in range(150):
        y = torch.randint(3, (64,), generator=c)
        x = at[y] + 0.2 * torch.randn(64, 2, generator=c)
        optimizer.zero_grad()
        gan.loss(x, y, c).mean().backward()
        optimizer.step()
    y = torch.arange(3).repeat(50)
    with torch.no_grad():
        made = gan.sample(150, c, y)
    assert float((torch.cdist(made, at).argmin(1) == y).float().mean()) > 0.95
