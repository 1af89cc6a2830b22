import pytest
import torch
from small_learners import net
from torch import nn
from torch.optim import LBFGS, SGD

from lifelong import EWC, HAT, Adaptive, Learner, Replay, Rising
from lifelong.core.arguments import device_of, strategies_of
from lifelong.nets import MLP, Experts, Gated, LDAHead, Packed

MODEL = net()


def sgd():
    return SGD(MODEL.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Learner(sgd(), MODEL), "swap them: Learner"),
        (lambda: Learner(nn.Linear, sgd()), r"model is the class Linear; give an instance"),
        (lambda: Learner("mlp", sgd()), "model is of str; give a torch.nn.Module"),
        (lambda: Learner(MODEL, SGD), r"the class SGD; give an instance: SGD\(model\.param"),
        (lambda: Learner(MODEL, "sgd"), "optimizer is of str; give one of torch"),
        (lambda: Learner(MODEL, SGD(MODEL.parameters(), lr=float("inf"))), "optimizer's lr is inf"),
        (lambda: Learner(MODEL, LBFGS(MODEL.parameters())), "LBFGS computes the loss again"),
        (lambda: Learner(MODEL, sgd(), Replay(5)), r"is a Replay; put it into a list: \[Replay"),
        (lambda: Learner(MODEL, sgd(), Replay), "strategies is the class Replay; give a list"),
        (lambda: Learner(MODEL, sgd(), "replay"), "strategies is 'replay'; give a list"),
        (lambda: Learner(MODEL, sgd(), 3), "strategies is 3; give a list"),
        (lambda: Learner(MODEL, sgd(), [Replay]), r"strategies\[0\] is the class Replay; give an"),
        (lambda: Learner(MODEL, sgd(), [EWC(), "replay"]), r"strategies\[1\] is 'replay'"),
        (lambda: Learner(MODEL, sgd(), loss="mse"), r"loss is 'mse'; give a loss of torch"),
        (lambda: Learner(MODEL, sgd(), loss=nn.MSELoss), r"loss is the class MSELoss; give an"),
        (lambda: Learner(MODEL, sgd(), seed="a"), "seed is 'a'; give an integer"),
        (lambda: Learner(MODEL, sgd(), seed=1.5), r"seed is 1\.5; give an integer"),
        (lambda: Learner(MODEL, sgd(), device="gpu"), "device 'gpu' cannot be used here; give"),
        (lambda: Learner(MODEL, sgd(), device=3.5), r"device '3\.5' cannot be used here"),
    ],
)
def test_slips_in_the_constructor_get_one_line(make, told):
    with pytest.raises(ValueError, match=told) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_device_that_is_not_here_is_told_from_one_that_is():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="device 'cuda' cannot be used here; give one of cpu, or"):
        device_of("cuda", MODEL)
    assert device_of("cpu", MODEL) == torch.device("cpu")


def test_a_refused_device_leaves_the_learners_parts_free():
    strategy = Replay(5)
    with pytest.raises(ValueError, match="device"):
        Learner(MODEL, sgd(), [strategy], device="gpu")
    Learner(MODEL, sgd(), [strategy])


def test_strategies_may_come_from_anything_that_is_iterated_over():
    made = [EWC(), Replay(5)]
    assert strategies_of(iter(made)) == strategies_of(tuple(made)) == made


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (lambda: Packed(net()), "Packed learns through the strategy PackNet"),
        (lambda: Gated(MLP(6, hidden=(4,))), "Gated learns through the strategy HAT"),
        (lambda: Experts(net(), inputs=6, rank=2), "Experts learns through the strategy Expert"),
        (
            lambda: nn.Sequential(nn.Linear(6, 5), LDAHead(5, classes=2)),
            "LDAHead learns through the strategy Analytic",
        ),
    ],
)
def test_a_network_without_its_strategy_is_refused(model, wanted):
    made = model()
    told = r", and the strategies are \[Replay\(.*\)\]; add "
    with pytest.raises(ValueError, match=wanted + ".*" + told):
        Learner(made, SGD([p for p in made.parameters() if p.requires_grad], lr=0.1), [Replay(9)])


def test_a_network_whose_strategy_adapts_its_strength_has_it():
    made = Gated(MLP(6, hidden=(4,)))
    strategies = [Adaptive(HAT(steps=3), schedule=Rising(over=10))]
    optimizer = SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    assert Learner(made, optimizer, strategies).strategies == strategies
