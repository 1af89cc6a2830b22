import math

import pytest
import torch
from small_learners import Noisy, batches, learner, net, whole
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, LabelOutsideHead, NonFiniteLoss
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy

GOOD = batches(1)[0]


def spoiled(column, value):
    batch = batches(1)[0]
    made = {"x": batch.x.clone(), "y": batch.y.clone()}
    made[column][3] = value
    return Batch.of(made["x"], made["y"])


def refused(taught, batch, error, told):
    """Observe what must be refused, and find the learner bit for bit as it was."""
    before = whole(taught)
    with pytest.raises(error, match=told):
        taught.observe(batch)
    assert whole(taught) == before


def busy(**settings):
    """A learner in the middle of things: moments, running statistics, gradients half summed."""
    settings = {"accumulate": 2, **settings}
    taught = learner(strategies=[Noisy(), Noisy()], **settings)
    for batch in batches(7, seed=3):
        taught.observe(batch)
    return taught


@pytest.mark.parametrize("accumulate", [1, 2, 7])
@pytest.mark.parametrize(
    ("batch", "error", "told"),
    [
        (spoiled("x", torch.nan), InvalidBatch, r"x holds NaN or infinity in . of 8 rows \(3"),
        (spoiled("x", torch.inf), InvalidBatch, "remove those rows"),
        (spoiled("y", 4), LabelOutsideHead, "span 0 to 4, but the model has outputs 0 to 3; widen"),
        (spoiled("y", -1), LabelOutsideHead, "span -1 to 3"),
        (Batch.of(GOOD.x, GOOD.y.float()), InvalidBatch, r"convert with y\.long\(\)"),
        (GOOD.to(torch.device("meta")), InvalidBatch, "a batch on meta, the learner is on cpu"),
        (
            Batch(GOOD.x[:2], GOOD.y, GOOD.task, 8, GOOD.key),
            InvalidBatch,
            "x has 2, y has 8, task has 8",
        ),
        (GOOD.rows(slice(0)), InvalidBatch, "0 rows; skip empty batches"),
        (Batch.of(GOOD.x[:, :5], GOOD.y), RuntimeError, "shapes cannot be multiplied|size"),
        (Batch.of({"x": GOOD.x}, GOOD.y), (InvalidBatch, TypeError), "inputs|argument"),
    ],
)
def test_a_bad_batch_leaves_no_trace(batch, error, told, accumulate):
    refused(busy(accumulate=accumulate), batch, error, told)


def test_a_nan_target_is_named():
    model = nn.Sequential(nn.Linear(6, 1))
    taught = learner(model, loss=nn.MSELoss())
    y = torch.zeros(8, 1)
    y[5] = torch.nan
    refused(taught, Batch.of(GOOD.x, y), InvalidBatch, r"y holds NaN .* 1 of 8 rows \(5\)")
    refused(taught, Batch.of(GOOD.x, torch.zeros(8)), InvalidBatch, "the shape of the outputs")


def test_after_a_bad_batch_learning_goes_on_as_if_it_had_not_been():
    one, other = busy(), busy()
    for batch in batches(5, seed=4):
        with pytest.raises(InvalidBatch):
            one.observe(spoiled("x", torch.nan))
        assert torch.equal(one.observe(batch), other.observe(batch))
    assert whole(one) == whole(other)


@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_diverging_model_stops_before_it_is_lost(make):
    model = net(dropout=0.0)
    taught = learner(model, optimizer=make(model.parameters(), lr=1e30), strategies=[Noisy()])
    error, before = None, {}
    for batch in batches(20):
        before = whole(taught)
        try:
            taught.observe(batch)
        except NonFiniteLoss as found:
            error = found
            break
    assert error is not None
    assert "lower the learning rate" in str(error)
    assert f"at step {taught.steps}" in str(error)
    assert whole(taught) == before


class Root(nn.Module):
    """sqrt(|w x|) has an infinite slope at 0 while its value is finite."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return (self.lin(x) * x.abs().sum(1, keepdim=True).sign()).abs().sqrt()


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_found_though_the_loss_is(clip):
    taught = learner(Root(), strategies=[Noisy()], clip=clip)
    for batch in batches(3):
        taught.observe(batch)
    zero = Batch.of(torch.zeros(8, 6), GOOD.y)
    assert math.isfinite(F.cross_entropy(taught.model(zero.x), zero.y).item())
    refused(taught, zero, NonFiniteLoss, "the gradient is not finite at step 3")
    assert taught.model.calls.item() == 4


def test_huge_but_finite_gradients_are_steps():
    model = nn.Linear(2, 1, bias=False)
    taught = learner(
        model, optimizer=SGD(model.parameters(), lr=1e-30), loss=lambda output, y: output[:, 0]
    )
    taught.observe(Batch.of(torch.full((4, 2), 1e25), torch.zeros(4)))
    assert taught.steps == 1


@pytest.mark.parametrize("moment", ["extend", "penalty"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_trace(moment, error):
    class Interrupted(Noisy):
        active = False

    def act(self, learner, batch, *rest):
        torch.rand(3, generator=self.generator)
        torch.rand(3)
        if self.active:
            raise error("now")
        return getattr(Noisy, moment)(self, learner, batch, *rest)

    setattr(Interrupted, moment, act)
    taught = learner(strategies=[Noisy(), Interrupted()], accumulate=2)
    for batch in batches(3):
        taught.observe(batch)
    Interrupted.active = True
    refused(taught, GOOD, error, "now")
    Interrupted.active = False
    taught.observe(GOOD)


def test_a_penalty_that_is_not_finite_is_found():
    class Bad(Strategy):
        def penalty(self, learner, batch, output):
            return output.sum() * torch.nan

    taught = learner(strategies=[Noisy(), Bad()])
    refused(taught, GOOD, NonFiniteLoss, "the loss is not finite at step 0")


def test_an_error_in_projection_does_not_jam_the_scaler():
    class Once(Strategy):
        broken = True

        def project(self, learner):
            if self.broken:
                raise KeyboardInterrupt

    once = Once()
    taught = learner(nn.Linear(6, 4), strategies=[once], precision="fp16")
    with pytest.raises(KeyboardInterrupt):
        taught.observe(GOOD)
    once.broken = False
    for batch in batches(20):
        taught.observe(batch)
    assert taught.steps > 0


def test_a_bad_gradient_through_tied_weights_changes_nothing():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(4, 3)
            self.head = torch.nn.Linear(3, 4)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            # The root of zero has no gradient; the head's bias does not hear of it.
            length = self.embedding(x).square().sum(1, keepdim=True).sqrt()
            return self.head(self.embedding(x).detach()) + 0 * length

    net = Tied()
    with torch.no_grad():
        net.embedding.weight[0] = 0
    tied = Learner(net, torch.optim.SGD(net.parameters(), lr=0.1))
    before = tied.state_dict()["model"]
    with pytest.raises(NonFiniteLoss):
        tied.observe(Batch.of(torch.tensor([0, 1]), torch.tensor([0, 1])))
    after = tied.state_dict()["model"]
    assert all(torch.equal(after[name], value) for name, value in before.items())
