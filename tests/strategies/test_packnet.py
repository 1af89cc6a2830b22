import copy

import pytest
import torch
from strategy_models import batches_of, copied, learn, learner_of, mlp

from lifelong import PackNet, TaskSpec
from lifelong.core.errors import (
    LabelOutsideHead,
    NonFiniteLoss,
    NothingLeftToLearn,
    UnknownName,
)
from lifelong.nets import MLP, Packed, TaskClassifier, TaskHeads


def packed():
    return Packed(mlp())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)),
        ("adam", lambda params: torch.optim.Adam(params, lr=0.1)),
    ],
)
def test_a_task_keeps_its_share_and_retrains_it(name, make):
    learner = learner_of(PackNet(prune=0.6, epochs=2, lr=0.1, optimizer=name), packed)
    batches = batches_of(4)
    learner.begin_task(TaskSpec(0))
    for batch in batches:
        learner.observe(batch)
    expected = copy.deepcopy(learner.model)
    expected.prune(0.6)
    optimizer = make([p for p in expected.parameters() if p.requires_grad])
    for batch in batches * 2:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(expected(batch.x, task=batch.task), batch.y).backward()
        optimizer.step()
    learner.end_task(batches)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(learner.model.state_dict()[key], value, msg=key)
    assert learner.model.free == round(0.6 * 15) + round(0.6 * 20)


def test_an_optimizer_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UnknownName, match="known: adam, sgd"):
        PackNet(optimizer="rmsprop")


def test_with_a_number_of_tasks_each_gets_an_equal_part():
    learner = learner_of(PackNet(tasks=5), lambda: Packed(MLP(3, hidden=(20,), outputs=4)))
    for task in range(5):
        learn(learner, task, batches_of(2, task=task))
    counts = torch.bincount(learner.model.owner0.flatten(), minlength=6).tolist()
    assert counts == [0, 12, 12, 12, 12, 12]


def test_a_task_that_finds_nothing_free_is_told_so_and_nothing_changes():
    learner = learner_of(PackNet(prune=0.0), packed)
    learn(learner, 0, batches_of(2))
    learner.begin_task(TaskSpec(1))
    before = learner.state_dict()["model"]
    with pytest.raises(
        NothingLeftToLearn, match=r"belong to the 1 tasks before task 1; prune more"
    ):
        learner.observe(batches_of(1, task=1)[0])
    after = learner.state_dict()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_tasks_than_weights_were_divided_among_are_told_so():
    learner = learner_of(PackNet(tasks=2), packed)
    for task in range(2):
        learn(learner, task, batches_of(2, task=task))
    learner.begin_task(TaskSpec(2))
    with pytest.raises(NothingLeftToLearn, match="task 2; divide them among more than 2 tasks"):
        learner.observe(batches_of(1, task=2)[0])


def test_consolidating_in_between_prunes_a_task_once():
    learner = learner_of(PackNet(prune=0.5), packed)
    batches = batches_of(3)
    learner.begin_task(TaskSpec(0))
    learner.observe(batches[0])
    learner.consolidate(batches)
    owner = learner.model.owner0.clone()
    learner.observe(batches[1])
    learner.end_task(batches)
    assert torch.equal(learner.model.owner0, owner)


@pytest.mark.parametrize("settings", [{"prune": 0.0}, {"tasks": 1}])
def test_a_task_that_frees_nothing_is_retrained_once(settings):
    learner = learner_of(PackNet(**settings), packed)
    batches = batches_of(3)
    learner.begin_task(TaskSpec(0))
    learner.observe(batches[0])
    learner.consolidate(batches)
    again = learner_of(PackNet(**settings), packed)
    again.load_state_dict(learner.state_dict())
    for resumed in (learner, again):
        before = copied(dict(resumed.model.named_parameters()))
        resumed.consolidate(batches)
        resumed.end_task(batches)
        after = dict(resumed.model.named_parameters())
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_retraining_that_diverges_leaves_everything_as_it_was():
    learner = learner_of(PackNet(lr=1e30, epochs=3), packed)
    batches = batches_of(3)
    learner.begin_task(TaskSpec(0))
    learner.observe(batches[0])
    before = learner.state_dict()["model"]
    with pytest.raises(NonFiniteLoss, match="lower the strategy's learning rate"):
        learner.end_task(batches)
    after = learner.state_dict()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert learner.current == 0


def with_heads():
    return Packed(TaskClassifier(MLP(3, hidden=(9,)), TaskHeads(9)))


@pytest.mark.parametrize(
    ("rows", "kind", "told"),
    [
        (lambda: batches_of(2, classes=(0, 1)), NothingLeftToLearn, "of task 0, and task 1 is op"),
        (
            lambda: [*batches_of(2, classes=(2, 3), task=1), *batches_of(1, classes=(0, 1))],
            NothingLeftToLearn,
            "nothing that trains has a part in the loss of these rows, of task 0",
        ),
        (
            lambda: batches_of(2, classes=(0, 1), task=1),
            LabelOutsideHead,
            r"in row 0 is none of the classes of task 1, where its output is hidden",
        ),
    ],
)
def test_rows_that_a_step_refuses_are_refused_by_retraining_and_nothing_changes(rows, kind, told):
    learner = learner_of(PackNet(prune=0.5, epochs=2), with_heads)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    own = batches_of(2, classes=(2, 3), task=1)
    learner.begin_task(TaskSpec(1, (2, 3)))
    for batch in own:
        learner.observe(batch)
    before = learner.state_dict()["model"]
    with pytest.raises(kind, match=told):
        learner.end_task(rows())
    after = learner.state_dict()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in learner.model.parameters())
    assert (learner.current, learner.strategies[0].pruned) == (1, 1)
    learner.end_task(own)
    assert learner.strategies[0].pruned == 2


def test_models_that_are_not_packed_and_senseless_settings_are_refused():
    learner = learner_of(PackNet())
    with pytest.raises(ValueError, match="the model is MLP; wrap it"):
        learn(learner, 0, batches_of(1))
    for settings, told in (
        ({"prune": 1.0}, "prune is 1.0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
    ):
        with pytest.raises(ValueError, match=told):
            PackNet(**settings)
