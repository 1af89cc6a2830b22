"""What once went wrong, or nearly did: each a promise that a learner makes."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lifelong import EWC, L2, MAS, Batch, DERpp, Learner, LwF, TaskSpec
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
