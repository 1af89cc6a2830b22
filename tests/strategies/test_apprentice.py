from functools import partial

import pytest
import torch

from lifelong.core.errors import NonFiniteLoss, StateMismatch
from lifelong.nets.generators import GAN, VAE
from lifelong.strategies.apprentice import Apprentice


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def begun(kind=VAE, **settings):
    apprentice = Apprentice(partial(kind, hidden=(6,), latents=2), **settings)
    x = torch.randn(8, 3, generator=chance())
    apprentice.begin(x, None, chance(1))
    return apprentice, x, torch.zeros(8).long()


def test_its_first_weights_come_from_the_chance_it_is_given():
    before = torch.get_rng_state()
    one, other = begun()[0].weights(), begun()[0].weights()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_is_adams_on_the_weighted_mean():
    apprentice, x, y = begun(lr=0.01)
    twin, _, _ = begun()
    adam = torch.optim.Adam(twin.net.parameters(), lr=0.01)
    weight = torch.tensor([1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    for seed in range(3):
        apprentice.learn(x, y, weight, chance(seed), lambda net: net.log_variance.sum())
        adam.zero_grad()
        rows = twin.net.loss(x, y, chance(seed))
        loss = (rows[0] + 3 * rows[1] + 2 * rows[7]) / 6 + twin.net.log_variance.sum()
        loss.backward()
        adam.step()
    for one, other in zip(apprentice.net.parameters(), twin.net.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_weights_to_sample_with_are_the_running_average():
    apprentice, x, y = begun(GAN)
    expected = {n: p.detach().clone() for n, p in apprentice.net.named_parameters()}
    for seed in range(4):
        apprentice.learn(x, y, torch.ones(8), chance(seed))
        for name, p in apprentice.net.named_parameters():
            expected[name] = GAN.averaging * expected[name] + (1 - GAN.averaging) * p.detach()
    for name, tensor in expected.items():
        torch.testing.assert_close(apprentice.weights()[name], tensor)
    frozen = apprentice.frozen(apprentice.weights())
    assert not any(p.requires_grad for p in frozen.parameters())
    torch.testing.assert_close(dict(frozen.named_parameters())["maker.0.weight"],
                               expected["maker.0.weight"])  # fmt: skip


@pytest.mark.parametrize("kind", [VAE, GAN])
def test_it_goes_on_from_a_state(kind):
    apprentice, x, y = begun(kind)
    apprentice.learn(x, y, torch.ones(8), chance(0))
    other = Apprentice(partial(kind, hidden=(6,), latents=2))
    other.load_state_dict(apprentice.state_dict())
    for one in (apprentice, other):
        one.learn(x, y, torch.ones(8), chance(1))
    assert all(
        torch.equal(apprentice.weights()[name], tensor) for name, tensor in other.weights().items()
    )
    other.load_state_dict({})
    assert other.net is None
    assert other.state_dict() == {}


def test_a_loss_that_is_not_finite_takes_no_step():
    apprentice, x, y = begun()
    before = apprentice.weights()
    with pytest.raises(NonFiniteLoss, match="generator's loss"):
        apprentice.learn(x * float("inf"), y, torch.ones(8), chance())
    assert all(torch.equal(before[n], t) for n, t in apprentice.weights().items())


def test_moments_of_another_shape_are_refused():
    apprentice, x, y = begun()
    apprentice.learn(x, y, torch.ones(8), chance())
    state = apprentice.state_dict()
    name = next(iter(state["moments"]))
    state["moments"][name]["exp_avg"] = torch.zeros(2)
    with pytest.raises(StateMismatch, match="exp_avg of"):
        Apprentice(partial(VAE, hidden=(6,), latents=2)).load_state_dict(state)


def test_all_of_adams_state_is_where_the_generator_is():
    """On another device than the state's; a fused Adam refuses a count that is not there."""
    apprentice, x, y = begun()
    apprentice.learn(x, y, torch.ones(8), chance())
    other = Apprentice(partial(Elsewhere, hidden=(6,), latents=2))
    other.load_state_dict(apprentice.state_dict())
    moments = [t for own in other.adam.state.values() for t in own.values()]
    assert any(t.ndim == 0 for t in moments)
    assert {t.device.type for t in moments} == {"meta"}


class Elsewhere(VAE):
    """Its parameters are on a device without values."""

    def load_state_dict(self, state, *args, **settings):
        self.to_empty(device="meta")


@pytest.mark.parametrize("lr", [0.0, -1.0, float("inf")])
def test_a_learning_rate_without_sense_is_refused(lr):
    with pytest.raises(ValueError, match="lr is"):
        Apprentice(VAE, lr)
