import copy

import pytest
import torch
from small_learners import Noisy, batches, flat, growing, learner, net, whole
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from lifelong import EWC, Batch
from lifelong.core.errors import CheckpointError, StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.task import TaskSpec

SCHEDULERS = {
    "none": lambda optimizer: None,
    "step": lambda optimizer: StepLR(optimizer, 3, 0.5),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 40),
    "onecycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=40),
}
OPTIMIZERS = {
    "sgd": lambda model: SGD(model.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda model: Adam(model.parameters(), lr=0.01, amsgrad=True),
}
SPECS = [TaskSpec(0, (0, 1)), TaskSpec(1, (2, 3))]


def made(optimizer="adam", scheduler="none", model=growing, seed=0, **settings):
    """The parts of a learner, for it or for `Learner.load`."""
    model = model(seed)
    held = OPTIMIZERS[optimizer](model)
    parts = {"scheduler": SCHEDULERS[scheduler](held), "seed": seed, "accumulate": 3, "clip": 1.0}
    return (model, held, [Noisy(), Noisy()]), {**parts, **settings}


def stream():
    """Every call on a learner of two tasks, in order."""
    for spec in SPECS:
        data = batches(10, classes=spec.classes[-1] + 1, seed=spec.id, task=spec.id)
        yield lambda taught, spec=spec: taught.begin_task(spec)
        for batch in data:
            yield lambda taught, batch=batch: taught.observe(batch)
        yield lambda taught, data=data: taught.end_task(data)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_anywhere_is_never_having_stopped(tmp_path, optimizer, scheduler, precision):
    parts, settings = made(optimizer, scheduler, precision=precision)
    straight = Learner(*parts, **settings)
    steps = list(stream())
    for step in steps:
        step(straight)
    parts, settings = made(optimizer, scheduler, precision=precision)
    taught = Learner(*parts, **settings)
    for at, step in enumerate(steps):
        if at in (0, 1, 6, 11, 12, 15, 23):  # mid-window, mid-task, between tasks, after growth
            taught.save(tmp_path / "learner")
            parts, settings = made(optimizer, scheduler, seed=at, precision=precision)
            torch.rand(at + 1)
            taught = Learner.load(tmp_path / "learner", *parts, **settings)
        step(taught)
    assert flat(taught.state_dict()) == flat(straight.state_dict())


def test_a_loaded_state_stays_as_it_was_and_loads_again():
    parts, settings = made(model=net, optimizer="sgd", scheduler="cosine")
    taught = Learner(*parts, **settings)
    for batch in batches(7):
        taught.observe(batch)
    state = taught.state_dict()
    before = flat(copy.deepcopy(state))
    ends = []
    for _ in range(2):
        taught.load_state_dict(state)
        assert flat(taught.state_dict()) == before
        for batch in batches(9, seed=1):
            taught.observe(batch)
        ends.append(flat(taught.state_dict()))
        assert flat(state) == before
    assert ends[0] == ends[1]


def trained(**changes):
    parts, settings = made(**{"scheduler": "step", **changes})
    taught = Learner(*parts, **settings)
    taught.begin_task(SPECS[0])
    for batch in batches(7, classes=2):
        taught.observe(batch)
    return taught


STATE = trained().state_dict()


def edited(edit):
    state = copy.deepcopy(STATE)
    edit(state)
    return state


def without(*path):
    def edit(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return edit


def with_value(value, *path):
    def edit(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return edit


DAMAGES = {
    "part missing": (without("random"), r"missing \['random'\]"),
    "part unknown": (with_value(1, "more"), r"unknown \['more'\]"),
    "weight missing": (without("model", "0.weight"), r"missing \['0\.weight'\]"),
    "weight unknown": (with_value(torch.zeros(1), "model", "z"), r"unknown \['z'\]"),
    "weight's shape": (with_value(torch.zeros(1), "model", "0.bias"), r"\(1,\) in the state"),
    "weight's type": (
        with_value(torch.zeros(12).double(), "model", "0.bias"),
        r"torch.float64 \(12,\) in the state, torch.float32 \(12,\) here",
    ),
    "weight no tensor": (with_value(3, "model", "0.bias"), "'0.bias' is 3 in the state"),
    "grown weight's shape": (
        with_value(torch.zeros(3), "model", "4.blocks.0.bias"),
        "4.blocks.0.bias",
    ),
    "gradient unknown": (with_value(torch.zeros(1), "gradients", "z"), "gradients"),
    "moment's shape": (
        with_value(torch.zeros(7), "optimizer", "state", 0, "exp_avg"),
        "exp_avg of parameter 0",
    ),
    "groups": (with_value([0, 1], "optimizer", "param_groups", 0, "params"), "groups hold"),
    "groups missing": (without("optimizer", "param_groups"), "damaged: KeyError"),
    "optimizer missing": (with_value(None, "optimizer"), "damaged: TypeError"),
    "strategy missing": (without("strategies", 1), r"strategies \['Noisy'\], this learner has"),
    "strategy's kind": (with_value("EWC", "strategies", 1, "kind"), r"\['Noisy', 'EWC'\]"),
    "strategy's key": (without("strategies", 1, "state", "total"), "the state of Noisy has"),
    "strategy's generator": (
        with_value(torch.zeros(3).byte(), "strategies", 1, "state", "generator"),
        "damaged: RuntimeError",
    ),
    "strategy's state": (with_value(None, "strategies", 1, "state"), "damaged: AttributeError"),
    "task's id": (with_value(-1, "tasks", 0, "id"), "damaged: ValueError: task id -1"),
    "task never begun": (with_value(5, "current"), "task 5 is open in the state"),
    "count": (with_value("7", "batches"), "'7'.*not whole numbers"),
    "steps": (with_value(-1, "steps"), "not whole numbers"),
    "generator": (with_value(torch.zeros(3).byte(), "random", "cpu"), "the cpu generator"),
    "generator no tensor": (with_value(None, "random", "cpu"), "the cpu generator"),
    "scheduler": (without("scheduler", "last_epoch"), "state of the scheduler has"),
    "scheduler missing": (with_value(None, "scheduler"), "state of the scheduler has"),
    "settings": (with_value({}, "settings"), "saved with precision=None"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("fresh", [True, False])
def test_a_refused_state_changes_nothing(name, fresh):
    edit, told = DAMAGES[name]
    if fresh:
        parts, settings = made(scheduler="step")
        taught = Learner(*parts, **settings)
    else:
        taught = trained(seed=5)
    before = whole(taught)
    held = [id(p) for p in taught.parameters.values()]
    with pytest.raises(StateMismatch, match=told):
        taught.load_state_dict(edited(edit))
    assert whole(taught) == before
    assert [id(p) for p in taught.parameters.values()] == held
    taught.load_state_dict(STATE)
    assert flat(taught.state_dict()) == flat(STATE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer": "sgd"}, "optimizer='Adam', this learner has 'SGD'"),
        ({"scheduler": "cosine"}, "scheduler='StepLR', this learner has 'CosineAnnealingLR'"),
        ({"scheduler": "none"}, "scheduler='StepLR', this learner has None"),
        ({"precision": "bf16"}, "precision='fp32', this learner has 'bf16'"),
        ({"accumulate": 1}, "accumulate=3, this learner has 1"),
        ({"clip": None}, "clip=1.0, this learner has None"),
        ({"model": net}, "missing .*4.weight.*build the same model"),
    ],
)
def test_another_learner_refuses_it(changes, told):
    parts, settings = made(**{"scheduler": "step", **changes})
    taught = Learner(*parts, **settings)
    before = whole(taught)
    with pytest.raises(StateMismatch, match=told):
        taught.load_state_dict(STATE)
    assert whole(taught) == before


def test_a_learner_with_other_tasks_refuses_it():
    parts, settings = made(scheduler="step")
    taught = Learner(*parts, **settings)
    taught.begin_task(TaskSpec(7, (0, 1)))
    before = whole(taught)
    with pytest.raises(StateMismatch, match=r"begun tasks \[7\], which the state's \[0\] do not"):
        taught.load_state_dict(STATE)
    assert whole(taught) == before


def test_a_file_is_checked_before_a_learner_is_made(tmp_path):
    trained().save(tmp_path / "s")
    path = tmp_path / "s"
    path.write_bytes(path.read_bytes()[:-1])
    parts, settings = made(scheduler="step")
    with pytest.raises(CheckpointError, match="truncated"):
        Learner.load(path, *parts, **settings)
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        Learner.load(path, *parts, **settings)
    assert not hasattr(parts[2][0], "generator")


def test_the_file_wins_for_the_optimizer_and_the_code_for_strategies():
    state = learner(strategies=[EWC(3.0)]).state_dict()
    model = net()
    again = learner(model, [EWC(5.0)], SGD(model.parameters(), lr=0.5, momentum=0.9))
    again.load_state_dict(state)
    assert again.optimizer.param_groups[0]["lr"] == 0.1
    assert again.strategies[0].strength == 5.0


def test_a_path_is_no_state():
    with pytest.raises(StateMismatch, match=r"received an object of type str; .*Learner\.load\("):
        learner().load_state_dict("ok.st")


def test_a_state_is_a_copy():
    taught = learner()
    state = taught.state_dict()
    before = flat(state)
    for batch in batches(3):
        taught.observe(batch)
    assert flat(state) == before
    assert isinstance(taught.model, nn.Module)


def test_an_importance_of_another_shape_is_refused_and_changes_nothing():
    batch = Batch.of(torch.rand(8, 3), torch.tensor([0, 1] * 4))

    def fresh():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), [EWC(1.0)])

    first = fresh()
    first.begin_task(0)
    first.observe(batch)
    first.end_task([batch])
    state = first.state_dict()
    kept = state["strategies"][0]["state"]["importance"]
    kept["weight"] = kept["weight"][:1]
    other = fresh()
    with pytest.raises(StateMismatch, match="importance of 'weight'"):
        other.load_state_dict(state)
    assert other.tasks == []
    assert other.strategies[0].importance == {}
