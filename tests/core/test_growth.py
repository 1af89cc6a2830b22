import pytest
import torch
from small_learners import batches, flat, growing, learner, net, whole
from torch import nn
from torch.optim import SGD, Adam

from lifelong.core.errors import OptimizerMismatch
from lifelong.core.growth import adopt, check_optimizer, grow, trainable
from lifelong.core.learner import Learner
from lifelong.core.task import TaskSpec
from lifelong.nets import (
    MLP,
    Gated,
    GrowingHead,
    MultiHead,
    Packed,
    TaskClassifier,
    TaskHeads,
    add_lora,
)
from lifelong.strategies import HAT, PackNet


def test_frozen_and_shared_parameters_are_counted_right():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    assert list(trainable(model)) == ["0.weight", "0.bias"]
    check_optimizer(model, SGD(trainable(model).values(), lr=0.1))
    check_optimizer(model, SGD(model.parameters(), lr=0.1))


def test_a_model_with_nothing_to_train_is_refused():
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="ReLU has no trainable parameters; set requires_grad"):
        Learner(nn.ReLU(), optimizer)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="Linear has no trainable parameters"):
        Learner(frozen, SGD(frozen.parameters(), lr=0.1))


def test_missing_and_foreign_parameters_are_named():
    model, other = nn.Linear(2, 3), nn.Linear(4, 5)
    with pytest.raises(OptimizerMismatch, match=r"misses bias; make it with model\.parameters"):
        Learner(model, SGD([model.weight], lr=0.1))
    both = [*model.parameters(), *other.parameters()]
    with pytest.raises(OptimizerMismatch, match=r"holds 2 parameters of another model.*\(5, 4\)"):
        Learner(model, SGD(both, lr=0.1))
    with pytest.raises(OptimizerMismatch, match="misses weight, bias"):
        Learner(model, SGD(other.parameters(), lr=0.1))


OPTIMIZERS = {
    "momentum": lambda model: SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda model: Adam(model.parameters(), lr=0.01),
    "fused": lambda model: Adam(model.parameters(), lr=0.01, fused=True),
    "foreach": lambda model: Adam(model.parameters(), lr=0.01, foreach=True, amsgrad=True),
    "groups": lambda model: Adam(
        [
            {"params": model[0].parameters(), "lr": 0.001},
            {"params": [*model[1].parameters(), *model[4].parameters()], "lr": 0.01},
        ]
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_growth_keeps_every_moment_of_the_old_parameters(name):
    model = growing()
    optimizer = OPTIMIZERS[name](model)
    taught = learner(model, optimizer=optimizer)
    taught.begin_task(TaskSpec(0, (0, 1)))
    for batch in batches(5, classes=2):
        taught.observe(batch)
    taught.end_task(batches(1, classes=2))
    old = list(taught.parameters.values())
    before = [flat(optimizer.state[p]) for p in old]
    assert all(before)
    weights = [p.detach().clone() for p in old]
    taught.begin_task(TaskSpec(1, (2, 3)))
    assert [flat(optimizer.state[p]) for p in old] == before
    assert all(torch.equal(p, then) for p, then in zip(old, weights, strict=True))
    assert {id(p) for p in taught.parameters.values()} == {
        id(p) for group in optimizer.param_groups for p in group["params"]
    }
    new = [p for p in taught.parameters.values() if all(p is not q for q in old)]
    assert [tuple(p.shape) for p in new] == [(2, 12), (2,)]
    assert [id(p) for p in optimizer.param_groups[-1]["params"][-2:]] == [id(p) for p in new]
    start = [p.detach().clone() for p in new]
    for batch in batches(3):
        taught.observe(batch)
    assert all(not torch.equal(p, then) for p, then in zip(new, start, strict=True))
    assert all(optimizer.state[p] for p in new)


def test_opening_the_open_task_changes_nothing_and_another_is_refused():
    taught = learner(growing())
    taught.begin_task(TaskSpec(0, (0, 1)))
    taught.observe(batches(1, classes=2)[0])
    before = flat(taught.state_dict())
    taught.begin_task(TaskSpec(0, (0, 1)))
    taught.begin_task(0)
    assert flat(taught.state_dict()) == before
    with pytest.raises(ValueError, match=r"task 0 is still open; call end_task\(data\) before"):
        taught.begin_task(TaskSpec(1, (2, 3)))
    assert flat(taught.state_dict()) == before


def test_a_head_that_needs_classes_says_so_and_nothing_is_begun():
    taught = learner(growing())
    before = flat(taught.state_dict())
    with pytest.raises(ValueError, match="class"):
        taught.begin_task(3)
    assert flat(taught.state_dict()) == before
    assert taught.tasks == []


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterDict()

    def grow(self, task):
        if str(task.id) in self.scales:
            return []
        self.scales[str(task.id)] = nn.Parameter(torch.ones(6))
        return [self.scales[str(task.id)]]

    def forward(self, x):
        for scale in self.scales.values():
            x = x * scale
        return x


def test_a_refusal_takes_back_what_has_grown_before():
    model = nn.Sequential(Adapter(), nn.Linear(6, 6), GrowingHead(6))
    taught = learner(model)
    with pytest.raises(ValueError, match="class"):
        taught.begin_task(0)
    assert not model[0].scales
    taught.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    taught.observe(batches(1)[0])
    assert not torch.equal(model[0].scales["0"], torch.ones(6))


@pytest.mark.parametrize(
    ("network", "strategy"),
    [
        (lambda: Packed(TaskClassifier(MLP(6, hidden=(9,)), TaskHeads(9))), PackNet),
        (lambda: Gated(MLP(6, hidden=(9, 8))), lambda: HAT(steps=2)),
    ],
)
def test_weights_that_have_changed_by_then_are_put_back(network, strategy):
    torch.manual_seed(0)
    model = network()
    rows = batches(3, classes=2)
    taught = Learner(model, SGD(trainable(model).values(), lr=0.1), [strategy()])
    taught.begin_task(TaskSpec(0, (0, 1)))
    for batch in rows:
        taught.observe(batch)
    taught.end_task(rows)
    before = whole(taught)
    with pytest.raises(ValueError, match="comes without classes"):
        taught.begin_task(1)
    assert whole(taught) == before
    taught.begin_task(TaskSpec(1, (0, 1)))
    taught.observe(batches(1, classes=2, task=1)[0])


def test_classes_that_a_multi_head_noted_for_a_task_are_taken_back():
    model = TaskClassifier(MLP(6, hidden=(9,)), MultiHead(9))
    model.head.grow(TaskSpec(0, (0, 1)))
    taught = Learner(model.requires_grad_(False), None)
    taught.begin_task(TaskSpec(0, (0, 1)))
    taught.end_task(batches(1, classes=2))
    with pytest.raises(OptimizerMismatch, match=r"head\.blocks\.1\.weight.* would never learn"):
        taught.begin_task(TaskSpec(0, (0, 1, 2)))
    taught.begin_task(TaskSpec(1, (1, 0)))
    assert taught.predict(torch.randn(3, 6), 0).shape == (3, 2)


def test_what_would_never_learn_is_taken_back():
    model = nn.Sequential(Adapter(), nn.Linear(6, 4).requires_grad_(False))
    taught = Learner(model, None)
    with pytest.raises(OptimizerMismatch, match=r"there is no optimizer, and 0\.scales\.0 would"):
        taught.begin_task(0)
    assert not model[0].scales
    assert taught.current is None


def test_a_model_that_is_yet_to_grow_its_first_parameter_can_be_taught():
    head = GrowingHead(6)
    taught = Learner(head, SGD([{"params": []}], lr=0.1))
    taught.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    taught.observe(batches(1)[0])
    assert taught.steps == 1


def test_growth_draws_from_the_learners_own_sequence():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = growing(), growing()
    for model, noise in ((one, 0), (other, 5)):
        torch.manual_seed(noise)
        learner(model, seed=4).begin_task(TaskSpec(0, (0, 1)))
    assert torch.equal(one[4].blocks[0].weight, other[4].blocks[0].weight)
    torch.set_rng_state(before)


def test_adoption_happens_once():
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    adopt(optimizer, list(model.parameters()))
    check_optimizer(model, optimizer)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    assert grow(model, TaskSpec(0)) == []


def test_of_many_missing_parameters_five_are_named():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(9)))
    with pytest.raises(OptimizerMismatch, match=r"3\.weight and 11 more; make it"):
        check_optimizer(model, torch.optim.SGD(model[0].parameters(), lr=0.1))


def test_weights_that_growing_leaves_alone_are_not_copied(monkeypatch):
    model = add_lora(MLP(50, hidden=(50,), outputs=4), rank=1)
    copied = []
    clone = torch.Tensor.clone
    monkeypatch.setattr(
        torch.Tensor,
        "clone",
        lambda self, **more: copied.append(self.numel()) or clone(self, **more),
    )
    grow(model, TaskSpec(0, (0, 1)))
    assert max(copied, default=0) < 50 * 50


def test_containers_may_lie_within_each_other_as_deeply_as_they_like():
    model, deep = net(), []
    for _ in range(3000):
        deep = [deep]
    model.noted = deep
    grow(model, TaskSpec(0, (0, 1)))


def test_what_many_modules_share_is_copied_once():
    class Counted(dict):
        copies = 0

        def __copy__(self):
            Counted.copies += 1
            return dict(self)

    shared = Counted({f"w{i}": [i] for i in range(10)})
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)), GrowingHead(1))
    for module in model.modules():
        module.vocabulary = shared
    grow(model, TaskSpec(0, (0, 1)))
    assert Counted.copies == 1
