import pytest
import torch
from strategy_models import Headless, batches_of, expect_refused, learn, learner_of
from torch.nn import functional as F

from lifelong import Batch, CleanReplay, TaskSpec
from lifelong.core.errors import BudgetTooSmall, InvalidBatch


def test_what_comes_again_is_learned_from_but_kept_once():
    strategy = CleanReplay(100)
    learner = learner_of(strategy)
    batches = batches_of(3)
    for batch in [*batches, *batches]:
        learner.observe(batch)
    assert sorted(strategy.memory.column("key").tolist()) == list(range(18))
    assert strategy.counts[0] == 18
    assert strategy.kept_out["copy"] == 18
    assert strategy.counts.sum() == 36


def test_erased_rows_may_come_again():
    strategy = CleanReplay(100)
    learner = learner_of(strategy)
    batch = batches_of(1)[0]
    learner.observe(batch)
    learner.forget(batch.key[:2])
    learner.observe(batch)
    assert len(strategy.memory) == 6
    assert strategy.kept_out["copy"] == 4


def test_rows_of_a_high_loss_are_kept_out():
    strategy = CleanReplay(100, small_loss=0.5)
    learner = learner_of(strategy)
    batch = batches_of(1)[0]
    with torch.no_grad():
        losses = F.cross_entropy(learner.model(batch.x), batch.y, reduction="none")
    learner.observe(batch)
    low = batch.key[losses.argsort()[:3]].tolist()
    assert sorted(strategy.memory.column("key").tolist()) == sorted(low)
    assert strategy.kept_out["high loss"] == 3


def test_neighbours_find_most_wrong_labels_and_few_right_ones():
    chance = torch.Generator().manual_seed(0)
    centres = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    strategy = CleanReplay(400, neighbours=5)
    learner = learner_of(strategy, lr=0.05)
    wrong = 0
    for number in range(60):
        y = torch.randint(2, (20,), generator=chance)
        x = centres[y] + torch.randn(20, 3, generator=chance)
        flipped = torch.rand(20, generator=chance) < 0.2
        wrong += int(flipped.sum())
        keys = torch.arange(20) + 100 * number + 10_000 * flipped
        learner.observe(Batch.of(x, torch.where(flipped, 1 - y, y), key=keys))
    share = (strategy.memory.column("key") >= 10_000).float().mean()
    assert strategy.kept_out["neighbours"] > 0.6 * wrong
    assert share < 0.08  # of a fifth that came


def test_a_class_has_no_more_rows_than_its_quota():
    strategy = CleanReplay(100, per_class=4)
    learner = learner_of(strategy)
    for batch in batches_of(9):
        learner.observe(batch)
    assert strategy.memory.column("y").bincount().tolist() == [4] * 4
    assert strategy.kept_out["class quota"] == 54 - 16


def test_what_does_not_suit_is_refused_before_the_step():
    whole = learner_of(CleanReplay(9, small_loss=0.5), loss=lambda output, batch: output.mean())
    with pytest.raises(InvalidBatch, match="a scalar; CleanReplay cannot do"):
        whole.observe(batches_of(1)[0])
    targets = learner_of(CleanReplay(9), loss=lambda output, y: output.sum(1) * y)
    with pytest.raises(InvalidBatch, match="no classes"):
        targets.observe(Batch.of(torch.zeros(2, 3), torch.tensor([0.5, 1.0])))
    assert whole.batches == targets.batches == 0
    with pytest.raises(ValueError, match="near is 2"):
        CleanReplay(9, near=2)


def test_features_want_a_head_which_the_first_step_looks_for():
    for settings in ({"near": 0.9}, {"neighbours": 3}):
        learner = learner_of(CleanReplay(9, **settings), Headless)
        expect_refused(learner, batches_of(1)[0], "name its last layer `head`")
    learner = learner_of(CleanReplay(9, small_loss=0.9), Headless)  # looks at no features
    learn(learner, 0, batches_of(3))
    assert learner.steps == 3


@pytest.mark.parametrize(("settings", "more"), [({}, 8), ({"near": 0.9}, 8 + 2 * 5)])
def test_what_is_kept_beside_rows_counts_before_the_first_step(settings, more):
    row = 3 * 4 + 3 * 8 + more
    learner = learner_of(strategy := CleanReplay(f"{4 * row - 1}B", **settings))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    with pytest.raises(BudgetTooSmall, match=f"at least {4 * row} bytes"):
        learner.observe(batches_of(1)[0])
    assert learner.batches == 0
    learner = learner_of(strategy := CleanReplay(f"{4 * row}B", **settings))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    learner.observe(batches_of(1)[0])
    assert (strategy.memory.capacity, strategy.memory.nbytes) == (4, 4 * row)
