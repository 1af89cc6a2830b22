import pytest
import torch
from strategy_models import (
    Headless,
    batches_of,
    copied,
    expect_close,
    expect_refused,
    growing,
    learn,
    learner_of,
    multi_head,
)

from lifelong import WA, Batch, Learner, Replay, TaskSpec
from lifelong.core.errors import InvalidBatch, UnknownTask
from lifelong.nets import MLP, Classifier, CosineHead


def two_tasks(model, strategies=()):
    """Learn two tasks; give the learner and its weights before the second one ended."""
    learner = learner_of([*strategies, WA()], model)
    learn(learner, 0, batches_of(4, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    batches = batches_of(4, classes=(2, 3), task=1)
    for batch in batches:
        learner.observe(batch)
    before = copied(learner.parameters)
    learner.end_task(batches)
    return learner, before


@pytest.mark.parametrize("model", [growing, multi_head])
def test_the_mean_norms_are_equal_afterwards_and_only_new_weights_move(model):
    learner, before = two_tasks(model, [Replay(20)])
    old, new = (learner.parameters[f"head.blocks.{n}.weight"] for n in (0, 1))
    torch.testing.assert_close(old.norm(dim=1).mean(), new.norm(dim=1).mean())
    ratio = new.detach() / before["head.blocks.1.weight"]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    assert abs(float(ratio[0, 0]) - 1) > 1e-3
    moved = {n for n, value in before.items() if not torch.equal(value, learner.parameters[n])}
    assert moved == {"head.blocks.1.weight"}


def test_in_a_head_of_fixed_width_the_rows_of_new_classes_are_scaled():
    learner, before = two_tasks(lambda: MLP(3, hidden=(5,), outputs=6))
    weight, was = learner.parameters["output.weight"], before["output.weight"]
    gamma = was[:2].norm(dim=1).mean() / was[2:4].norm(dim=1).mean()
    torch.testing.assert_close(weight[2:4].detach(), was[2:4] * gamma)
    assert torch.equal(weight[[0, 1, 4, 5]], was[[0, 1, 4, 5]])


@pytest.mark.parametrize("zero", [(0, 1), (2, 3)])
def test_weights_of_zero_leave_the_others_as_they_are(zero):
    learner = learner_of(WA())
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    with torch.no_grad():
        learner.parameters["output.weight"][list(zero)] = 0
    before = copied(learner.parameters)
    learner.end_task(batches_of(2, classes=(2, 3), task=1))
    assert all(torch.equal(value, learner.parameters[n]) for n, value in before.items())


def test_nothing_moves_without_new_classes():
    learner = learner_of(wa := WA())
    for task in (0, 1):
        learner.begin_task(task)
        batches = batches_of(4, task=task)
        for batch in batches:
            learner.observe(batch)
        before = copied(learner.parameters)
        learner.end_task(batches)
        assert all(torch.equal(value, learner.parameters[n]) for n, value in before.items())
    assert wa.seen == [0, 1, 2, 3]


def test_a_head_without_linear_weights_is_refused_and_the_task_stays_open():
    model = Classifier(MLP(3, hidden=(5,)), CosineHead(5))
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), [WA()])
    learner.begin_task(TaskSpec(0, (0, 1)))
    expect_refused(
        learner, batches_of(1, classes=(0, 1))[0], "CosineHead has outputs without linear weights"
    )
    with pytest.raises(ValueError, match="CosineHead has outputs without linear weights"):
        learner.end_task(batches_of(1, classes=(0, 1)))
    assert learner.current == 0


def test_a_head_that_is_not_there_or_has_no_outputs_yet_is_told_as_such():
    expect_refused(learner_of(WA(), Headless), batches_of(1)[0], "name its last layer `head`")
    expect_refused(learner_of(WA(), growing), batches_of(1)[0], "no outputs yet", UnknownTask)


@pytest.mark.parametrize("y", [torch.ones(6), torch.ones(6, 4), torch.ones(6, 4).long()])
def test_labels_that_are_no_classes_are_refused_in_the_first_step(y):
    learner = learner_of(WA(), loss=lambda output, y: output.square().mean(1))
    batch = Batch.of(torch.randn(6, 3), y, 0, torch.arange(6))
    before = copied(learner.parameters)
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="no class"):
        learner.observe(batch)
    with pytest.raises(InvalidBatch, match="no class"):
        learner.end_task([batch])
    assert learner.steps == 0
    expect_close(copied(learner.parameters), before, 0.0)
