"""What once went wrong, or nearly did: each a promise that a learner makes."""

import copy

import pytest
import torch
from small_learners import batches
from torch import nn
from torch.optim import SGD, Adam

from lifelong import (
    AGEM,
    EWC,
    GEM,
    GPM,
    L2,
    MAS,
    SI,
    Batch,
    DERpp,
    FeatureReplay,
    Learner,
    LwF,
    Replay,
    Strategy,
    TaskSpec,
)
from lifelong.checks.states import difference
from lifelong.core.errors import InvalidBatch, NonFiniteLoss


def rows(count: int = 8) -> Batch:
    chance = torch.Generator().manual_seed(count)
    x = torch.randn(count, 4, generator=chance)
    return Batch.of(x, torch.randint(0, 2, (count,), generator=chance), key=torch.arange(count))


def learner_of(strategies, model: nn.Module | None = None, **settings) -> Learner:
    torch.manual_seed(0)
    model = model or nn.Linear(4, 2)
    return Learner(model, SGD(model.parameters(), lr=0.1), strategies, **settings)


def observe_often(learner: Learner, times: int) -> None:
    for _ in range(times):
        learner.observe(rows())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()))


class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.adapters, self.begun = nn.Linear(4, 2), nn.ModuleList(), set()

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        if task.id in self.begun:
            return []
        self.begun.add(task.id)
        self.adapters.append(nn.Linear(4, 2))
        return list(self.adapters[-1].parameters())

    def forward(self, x):
        return self.base(x) + sum(adapter(x) for adapter in self.adapters)


def test_a_teacher_of_a_model_with_tied_weights_leaves_them_learning():
    learner = learner_of([LwF()], Tied())
    learner.begin_task(0)
    learner.observe(rows())
    learner.end_task([rows()])
    learner.begin_task(1)
    before = learner.model.a.weight.detach().clone()
    learner.observe(rows())
    assert learner.model.a.weight.requires_grad
    assert not torch.equal(learner.model.a.weight, before)
    lwf = learner.strategies[0]
    teacher = lwf._frozen.of(learner, lwf.teacher)
    assert teacher.b.weight is teacher.a.weight
    assert teacher.b.weight is not learner.model.a.weight


def test_a_teacher_resumes_bit_for_bit_when_the_inside_of_the_model_has_grown():
    def new() -> Learner:
        return learner_of([LwF()], Adapted())

    straight = new()
    straight.begin_task(0)
    straight.observe(rows())
    straight.end_task([rows()])
    straight.begin_task(1)
    for _ in range(5):
        straight.observe(rows())
    resumed = new()
    resumed.load_state_dict(straight.state_dict())
    for _ in range(5):
        assert torch.equal(straight.observe(rows()), resumed.observe(rows()))


def test_a_pull_that_overflows_is_noticed_before_it_reaches_the_weights():
    learner = learner_of([L2(300.0)])
    learner.begin_task(0)
    learner.observe(rows())
    learner.end_task([rows()])
    learner.begin_task(1)
    with pytest.raises(NonFiniteLoss):
        observe_often(learner, 200)
    assert all(p.isfinite().all() for p in learner.model.parameters())


def test_a_gradient_that_is_never_finite_is_told_in_half_precision_too():
    def loss(output, batch):
        return (output.float() * 0).sum(1).abs().sqrt()

    learner = learner_of([], loss=loss, precision="fp16")
    with pytest.raises(NonFiniteLoss):
        observe_often(learner, 60)


def test_consolidating_happens_whole_or_not_at_all():
    learner = learner_of([L2(), MAS()])  # the first does not look at the rows, the second fails
    learner.begin_task(0)
    learner.observe(rows())
    bad = Batch.of(torch.full((2, 4), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(InvalidBatch, match="x holds NaN or infinity in 2 of 2 rows"):
        learner.end_task([rows(), bad])
    assert learner.current == 0
    assert learner.strategies[0].importance == {}
    learner.end_task([rows()])
    assert learner.strategies[0].importance.keys() == {"weight", "bias"}


@pytest.mark.parametrize("strategy", [EWC, MAS, L2])
def test_springs_hold_models_in_bfloat16(strategy):
    learner = learner_of([strategy()], nn.Linear(4, 2).bfloat16())
    batch = Batch.of(rows().x.bfloat16(), rows().y)
    for task in range(3):
        learner.begin_task(task)
        learner.observe(batch)
        learner.end_task([batch])
    assert learner.model.weight.isfinite().all()


def test_a_learner_can_be_copied_and_keeps_no_batch_between_steps():
    learner = learner_of([DERpp(10)])
    for _ in range(3):
        learner.observe(rows())
    twin = copy.deepcopy(learner)
    assert torch.equal(twin.observe(rows()), learner.observe(rows()))


def test_classes_that_a_task_brings_later_are_distilled_too():
    learner = learner_of([LwF()])
    for classes in ((0,), (1,)):
        learner.begin_task(TaskSpec(0, classes))
        learner.observe(rows())
        learner.end_task([rows()])
    assert learner.strategies[0].known == [[0, 1]]


@pytest.mark.parametrize(
    "make",
    [FeatureReplay, lambda: GEM(20), lambda: AGEM(20), lambda: Replay(20, fill="task"), GPM, EWC],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_row_that_is_not_finite_is_found_at_the_end_of_a_task(make, place):
    """A loop may skip the batch that was refused, and forget to leave it out there."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    learner = Learner(net, SGD(net.parameters(), lr=0.1), [make()])
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    given = batches(3)
    for batch in given:
        learner.observe(batch)
    before, bad = learner.state_dict(), copy.deepcopy(given)
    bad[place].x[5, 1] = torch.nan
    with pytest.raises(InvalidBatch, match=r"x holds NaN or infinity in 1 of 8 rows \(5\)"):
        learner.end_task(bad)
    assert difference(learner.state_dict(), before) is None
    learner.end_task(given)


def test_a_large_sum_of_finite_rows_is_no_fault():
    net = nn.Linear(6, 4)
    learner = Learner(net, SGD(net.parameters(), lr=0.1), [Replay(20, fill="task")])
    learner.begin_task(0)
    batch = batches(1)[0]
    learner.end_task([Batch.of(torch.full_like(batch.x, 3e38), batch.y)])


class Fails(Strategy):
    def consolidate(self, learner, data):
        raise ValueError("no")


@pytest.mark.parametrize("optimizer", [Adam, SGD])
def test_the_step_that_is_left_over_is_taken_back_with_what_fails_after_it(optimizer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    made = optimizer(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(made, 1)
    learner = Learner(net, made, [SI(), Fails()], accumulate=2, scheduler=scheduler)
    learner.begin_task(0)
    given = batches(3)
    for batch in given:
        learner.observe(batch)
    before = learner.state_dict()
    with pytest.raises(ValueError, match="no"):
        learner.end_task(given)
    assert (learner.pending, learner.steps) == (1, 1)
    assert difference(learner.state_dict(), before) is None


def test_rows_that_do_not_say_their_task_are_refused_when_none_is_open_any_more():
    made = learner_of([Replay(10)])
    made.observe(Batch.of(rows().x, rows().y))  # a stream without tasks
    made.begin_task(3)
    made.observe(Batch.of(rows().x, rows().y))
    made.end_task([rows()])
    with pytest.raises(InvalidBatch, match=r"no task is open since task 3 ended; begin one, begin"):
        made.observe(Batch.of(rows().x, rows().y))
    made.observe(Batch.of(rows().x, rows().y, task=3))


class Wrong(Strategy):
    """Gives back what it should not."""

    def __init__(self, penalty=0.0, batch=None):
        self.given, self.batch = penalty, batch

    def extend(self, learner, batch):
        return batch if self.batch is None else self.batch

    def penalty(self, learner, batch, output):
        return self.given


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"penalty": None},
            r"Wrong.penalty returned an object of type NoneType, no number",
        ),
        (
            {"penalty": torch.zeros(2)},
            r"Wrong.penalty returned .* of shape \(2,\); return a",
        ),
        ({"batch": 7}, r"Wrong.extend returned an object of type int; return the batch"),
    ],
)
def test_what_a_strategy_should_not_give_back_is_said_by_its_name(wrong, told):
    made = learner_of([Wrong(**wrong)])
    before = made.state_dict()
    with pytest.raises(TypeError, match=told):
        made.observe(rows())
    assert difference(made.state_dict(), before) is None
