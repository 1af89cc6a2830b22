import pytest
import torch
from strategy_models import (
    Capture,
    Headless,
    batches_of,
    copied,
    expect_close,
    expect_refused,
    learn,
    learner_of,
)
from torch.nn import functional as F

from lifelong import Batch, Exemplars, TaskSpec
from lifelong.core.errors import BudgetTooSmall, InvalidBatch, UnknownName
from lifelong.core.features import tapped
from lifelong.memory import SELECTIONS, Jpeg
from lifelong.nets import Pixels


def by_hand(learner, batches, label, count, select):
    """The ids of the rows of a class that its features tell to keep, in order."""
    whole = Batch.of(
        torch.cat([batch.x for batch in batches]),
        torch.cat([batch.y for batch in batches]),
        key=torch.cat([batch.key for batch in batches]),
    )
    rows = whole.rows(whole.y == label)
    with tapped(learner.model) as tap, torch.no_grad():
        learner.model(rows.x)
    return rows.key[SELECTIONS[select](F.normalize(tap.features), count)].tolist()


def held_of(strategy, label):
    held = strategy.memory.all()
    mine = held["y"] == label
    return held["key"][mine][held["rank"][mine].argsort()].tolist()


@pytest.mark.parametrize("select", sorted(SELECTIONS))
def test_each_class_keeps_the_rows_that_its_features_choose(select):
    strategy = Exemplars(8, select=select)
    learner = learner_of(strategy)
    first, second = batches_of(8, classes=(0, 1)), batches_of(8, classes=(2, 3), task=1)
    learn(learner, 0, first)
    chosen = {label: by_hand(learner, first, label, 4, select) for label in (0, 1)}
    assert {label: held_of(strategy, label) for label in (0, 1)} == chosen
    learn(learner, 1, second)
    for label in (0, 1):  # classes that do not come again keep the first of theirs
        assert held_of(strategy, label) == chosen[label][:2]
    for label in (2, 3):
        assert held_of(strategy, label) == by_hand(learner, second, label, 2, select)


def test_a_class_that_comes_again_is_chosen_from_old_and_new_rows_together():
    strategy = Exemplars(6)
    learner = learner_of(strategy)
    first, second = batches_of(5, classes=(0, 1)), batches_of(5, classes=(0,), task=1)
    learn(learner, 0, first)
    held = strategy.memory.all()
    old = [Batch.of(held["x"], held["y"], key=held["key"])]
    learn(learner, 1, second)
    assert held_of(strategy, 0) == by_hand(learner, [*old, *second], 0, 3, "herding")
    assert held_of(strategy, 1) == held["key"][held["y"] == 1].tolist()


def test_rows_of_the_open_task_are_not_replayed_and_those_of_earlier_ones_are():
    seen = Capture()
    learner = learner_of([Exemplars(8, rows=5), seen])
    learn(learner, 0, batches_of(3, classes=(0, 1)))
    assert {len(batch) for batch in seen.batches} == {6}
    seen.batches.clear()
    learn(learner, 1, batches_of(3, classes=(2, 3), task=1))
    for batch in seen.batches:
        assert len(batch) == 11
        assert set(batch.y[6:].tolist()) <= {0, 1}


def test_erased_rows_leave_the_order_of_the_others():
    strategy = Exemplars(8)
    learner = learner_of(strategy)
    learn(learner, 0, batches_of(8, classes=(0, 1)))
    before = held_of(strategy, 0)
    learner.forget(before[1:2])
    assert held_of(strategy, 0) == [before[0], *before[2:]]
    learn(learner, 1, batches_of(8, classes=(2, 3), task=1))
    assert held_of(strategy, 0) == [before[0], before[2]]


def test_a_budget_in_bytes_counts_the_rank_too():
    strategy = Exemplars("500B", store="fp16")
    learn(learner_of(strategy), 0, batches_of(9))
    assert len(strategy.memory) == 500 // (3 * 2 + 8 + 8 + 8 + 4)
    assert strategy.memory.nbytes <= 500


def test_a_row_of_each_class_with_its_rank_has_room_before_the_first_step():
    row = 3 * 4 + 8 + 8 + 8 + 4
    learner = learner_of(Exemplars(f"{4 * row - 1}B"))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    expect_refused(learner, batches_of(1)[0], f"at least {4 * row} bytes", BudgetTooSmall)
    learner = learner_of(Exemplars(f"{4 * row}B"))
    learn(learner, 0, batches_of(3), (0, 1, 2, 3))
    learn(learner, 1, batches_of(3, task=1), (0, 1, 2, 3))
    assert len(learner.strategies[0].memory) == 4
    learner = learner_of(Exemplars(3))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    expect_refused(learner, batches_of(1)[0], "3 rows for exemplars of 4 classes", BudgetTooSmall)


def test_wrong_use_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'herding'"):
        Exemplars(select="herd")
    learner = learner_of(Exemplars(9), loss=lambda output, y: output.sum(1) * y)
    targets = [Batch.of(torch.zeros(2, 3), torch.tensor([0.5, 1.0]))]
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="exemplars are chosen of each"):
        learner.end_task(targets)
    learner = learner_of(Exemplars("100B"))
    learner.begin_task(0)
    with pytest.raises(BudgetTooSmall, match="4 classes"):
        learner.end_task(batches_of(9))
    assert len(learner.strategies[0].memory) == 0


def test_rows_that_stay_are_not_coded_anew():
    shape = (3, 16, 16)
    images = torch.nn.Sequential(Pixels(), torch.nn.Flatten(), torch.nn.Linear(768, 20))
    strategy = Exemplars(40, store="jpeg")
    learner = learner_of(strategy, lambda: images)
    chance, stored, given = torch.Generator().manual_seed(0), {}, {}
    for task in range(9):
        x = torch.randint(256, (16, *shape), generator=chance, dtype=torch.uint8)
        key = torch.arange(16) + 16 * task
        given |= dict(zip(key.tolist(), x, strict=True))
        y = torch.arange(16) % 2 + 2 * task
        y[:2] = 0  # a class that comes again has its old rows and new ones to choose from
        learn(learner, task, [Batch.of(x, y, task, key)])
        held = zip(strategy.memory.column("key").tolist(), strategy.memory.column("x"), strict=True)
        for number, image in held:
            assert torch.equal(stored.setdefault(number, image), image)
    coded = Jpeg().encode(torch.stack([given[number] for number in stored]))
    assert torch.equal(coded, torch.stack(list(stored.values())))
    assert set(strategy.memory.column("y").tolist()) == set(range(18))


def test_choosing_that_fails_when_rows_are_stored_loses_nothing():
    strategy = Exemplars(8, store="uint8")
    learner = learner_of(strategy)
    rows = [Batch.of(b.x.sigmoid(), b.y, b.task, b.key) for b in batches_of(4)]
    learn(learner, 0, rows)
    before = strategy.memory.state_dict()
    learner.begin_task(1)
    with pytest.raises(InvalidBatch, match="outside of 0 to 1"):
        learner.end_task(batches_of(4, task=1))
    assert str(strategy.memory.state_dict()) == str(before)
    assert len(strategy.memory) == 8


@pytest.mark.parametrize("y", [torch.ones(6), torch.ones(6, 4), torch.ones(6, 4).long()])
def test_labels_that_are_no_classes_are_refused_in_the_first_step(y):
    learner = learner_of(Exemplars(20), loss=lambda output, y: output.square().mean(1))
    before = copied(learner.parameters)
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="no class a row"):
        learner.observe(Batch.of(torch.randn(6, 3), y, 0, torch.arange(6)))
    assert learner.steps == learner.batches == 0
    expect_close(copied(learner.parameters), before, 0.0)


def test_a_model_without_a_head_is_refused_in_the_first_step():
    learner = learner_of(Exemplars(20), Headless)
    expect_refused(learner, batches_of(1)[0], "name its last layer `head`")
