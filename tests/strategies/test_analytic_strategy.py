import copy
from dataclasses import replace

import pytest
import torch
from strategy_models import batches_of, seeded
from torch import nn
from torch.optim import SGD

from lifelong import Analytic, Batch, Learner, Replay, TaskSpec
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.nets import MLP, Classifier, GrowingHead, LDAHead, MeansHead, RidgeHead

HEADS = {
    "means": lambda **more: MeansHead(5, **more),
    "lda": lambda **more: LDAHead(5, **more),
    "ridge": lambda **more: RidgeHead(5, width=20, **more),
}


def backbone():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh())


def still(head, seed=0, strategies=(), **settings):
    net = seeded(lambda: Classifier(backbone().requires_grad_(False), head()), seed)
    return Learner(net, None, [Analytic(**settings), *strategies])


def taught(learner, tasks=2):
    for task in range(tasks):
        learner.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
        batches = batches_of(4, classes=(2 * task, 2 * task + 1), task=task)
        for batch in batches:
            learner.observe(batch)
        learner.end_task(batches)
    return learner


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_stream_ends_where_all_rows_at_once_end(head):
    learner = taught(still(head))
    net = learner.model.eval()
    batches = [
        b for task in range(2) for b in batches_of(4, classes=(2 * task, 2 * task + 1), task=task)
    ]
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    whole = head(classes=4)
    whole.add(net.embed(x), y)
    torch.testing.assert_close(learner.predict(x), whole.eval()(net.embed(x)), atol=1e-4, rtol=1e-4)
    assert learner.steps == learner.batches == 8


def test_features_stay_though_norms_and_dropout_stand_before_the_head():
    learner = still(HEADS["means"])
    before = copy.deepcopy(learner.model.backbone.state_dict())
    taught(learner)
    after = learner.model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_replayed_rows_and_weights_are_not_taken_in():
    alone, beside = taught(still(HEADS["lda"])), taught(still(HEADS["lda"], strategies=[Replay(9)]))
    x = torch.randn(4, 3)
    torch.testing.assert_close(alone.predict(x), beside.predict(x))
    assert torch.equal(alone.model.head.counts, beside.model.head.counts)


def test_removing_rows_is_learning_without_them():
    learner, without = still(HEADS["ridge"]), still(HEADS["ridge"])
    batches = batches_of(5)
    for each in (learner, without):
        each.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    for batch in batches:
        learner.observe(batch)
    for batch in batches[1:]:
        without.observe(batch)
    x = torch.randn(6, 3)
    learner.predict(x)
    learner.strategies[0].remove(learner, batches[0])
    torch.testing.assert_close(learner.predict(x), without.predict(x), atol=1e-5, rtol=1e-5)
    assert learner.model.training


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_forgetting_ids_is_never_having_seen_their_rows(head, tmp_path):
    learner, without = (still(head, erasable=True) for _ in range(2))
    batches = [replace(b, key=torch.arange(len(b)) + 100 * n) for n, b in enumerate(batches_of(5))]
    for each in (learner, without):
        each.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    for batch in batches:
        learner.observe(batch)
        stays = batch.key % 3 != 0
        without.observe(batch.rows(stays))
    learner.save(tmp_path / "saved")
    x = torch.randn(6, 3)
    learner.predict(x)
    gone = torch.cat([batch.key[batch.key % 3 == 0] for batch in batches])
    resumed = Learner.load(
        tmp_path / "saved", still(head, seed=1).model, None, [Analytic(erasable=True)]
    )
    for each in (learner, resumed):  # also before its first batch
        each.forget(gone)
        torch.testing.assert_close(each.predict(x), without.predict(x), atol=1e-5, rtol=1e-5)
        assert torch.equal(each.model.head.counts, without.model.head.counts)
        kept, other = (learner_.strategies[0].state_dict()["kept"] for learner_ in (each, without))
        assert all(torch.equal(kept[name], other[name]) for name in kept)
        each.forget(gone)  # they are gone already
        assert torch.equal(each.model.head.counts, without.model.head.counts)


def test_rows_that_were_removed_are_not_forgotten_once_more():
    learner = still(HEADS["lda"], strategies=[Replay(50)], erasable=True)
    batches = [replace(b, key=torch.arange(len(b)) + 100 * n) for n, b in enumerate(batches_of(3))]
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    for batch in batches:
        learner.observe(batch)
    learner.strategies[0].remove(learner, batches[0])
    counts = learner.model.head.counts.clone()
    learner.forget(batches[0].key)
    assert torch.equal(learner.model.head.counts, counts)
    learner.model.head.remove(torch.zeros(int(counts[0]), 5), torch.zeros(int(counts[0])).long())
    with pytest.raises(InvalidBatch, match="to remove, of 0 that came"):
        learner.forget(torch.arange(300))
    assert len(learner.strategies[1].memory) == len(learner.strategies[0].kept) == 0


def test_a_state_says_whether_rows_are_erasable():
    state = taught(still(HEADS["means"])).state_dict()
    with pytest.raises(StateMismatch, match="make it as it was saved"):
        still(HEADS["means"], erasable=True).load_state_dict(state)


def test_replayed_rows_of_a_tasks_end_are_left_out():
    learner = warmed()
    batch = batches_of(1, classes=(0, 1))[0]
    learner.begin_task(TaskSpec(0, (0, 1)))
    learner.observe(batch)
    learner.end_task([batch.extended(batch)])
    assert learner.model.head.counts.sum() == len(batch)


def test_ids_are_not_kept_unless_asked():
    learner = taught(still(HEADS["means"]))
    counts = learner.model.head.counts.clone()
    learner.forget([0, 1])
    assert torch.equal(learner.model.head.counts, counts)
    assert len(learner.strategies[0].kept) == 0


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_learner_without_optimizer_resumes_in_the_middle_of_a_task(head, tmp_path):
    straight, stopped = still(head), still(head)
    first, second = batches_of(3, classes=(0, 1)), batches_of(4, classes=(2, 3), task=1)
    for each in (straight, stopped):
        each.begin_task(TaskSpec(0, (0, 1)))
        for batch in first:
            each.observe(batch)
        each.end_task(first)
        each.begin_task(TaskSpec(1, (2, 3)))
        for batch in second[:2]:
            each.observe(batch)
    stopped.save(tmp_path / "half")
    net = still(head, seed=1).model
    resumed = Learner.load(tmp_path / "half", net, None, [Analytic()])
    for each in (straight, resumed):
        for batch in second[2:]:
            each.observe(batch)
    x = torch.randn(6, 3)
    assert torch.equal(straight.predict(x), resumed.predict(x))
    one, other = straight.state_dict(), resumed.state_dict()
    assert one["optimizer"] is other["optimizer"] is None
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    alone = still(head, seed=2)
    for task in straight.tasks:
        alone.model.head.grow(task)
    alone.model.load_state_dict(one["model"])
    assert torch.equal(alone.model.eval()(x), straight.predict(x))


def warmed(kind=LDAHead):
    net = seeded(lambda: Classifier(backbone(), kind(5, logits=GrowingHead(5))))
    return Learner(net, SGD(net.parameters(), lr=0.1, momentum=0.9), [Analytic(warm=True)])


def test_a_warm_backbone_learns_in_the_first_task_alone():
    learner = warmed()
    learner.begin_task(TaskSpec(0, (0, 1)))
    before = copy.deepcopy(learner.model.state_dict())
    batches = batches_of(4, classes=(0, 1))
    for batch in batches:
        learner.observe(batch)
    trained = copy.deepcopy(learner.model.state_dict())
    assert not torch.equal(before["backbone.0.weight"], trained["backbone.0.weight"])
    assert learner.model.head.counts.tolist() == [0, 0]
    x = torch.randn(3, 3)
    net = learner.model.eval()
    assert torch.equal(net(x), net.head.logits(net.embed(x)))
    net.train()
    learner.end_task(batches)
    assert int(learner.model.head.counts.sum()) == 24
    learner.begin_task(TaskSpec(1, (2, 3)))
    for batch in batches_of(4, classes=(2, 3), task=1):
        learner.observe(batch)
    after = learner.model.state_dict()
    frozen = [name for name in trained if name.startswith("backbone")]
    assert all(torch.equal(trained[name], after[name]) for name in frozen)
    assert int(learner.model.head.counts.sum()) == 48


def test_a_consolidation_that_fails_leaves_the_head_as_it_was():
    learner = warmed()
    learner.begin_task(TaskSpec(0, (0, 1)))
    batches = batches_of(3, classes=(0, 1))
    learner.observe(batches[0])
    x = torch.randn(3, 3)
    before = learner.predict(x)
    bad = Batch.of(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(InvalidBatch, match="NaN"):
        learner.end_task([*batches, bad])
    assert learner.model.head.counts.tolist() == [0, 0]
    assert not learner.strategies[0].frozen
    assert torch.equal(learner.predict(x), before)


def test_wrong_use_is_told():
    plain = MLP(3, hidden=(5,), outputs=4)
    learner = Learner(plain, SGD(plain.parameters(), lr=0.1), [Analytic()])
    with pytest.raises(ValueError, match=r"is a Linear, which cannot be computed; put one"):
        learner.observe(batches_of(1)[0])
    net = Classifier(MLP(3, hidden=(5,)), LDAHead(5, classes=4))
    learner = Learner(net, SGD(net.parameters(), lr=0.1), [Analytic(warm=True)])
    with pytest.raises(ValueError, match=r"LDAHead has nothing to train through.*GrowingHead\(5\)"):
        learner.observe(batches_of(1)[0])
    learner = still(lambda: LDAHead(5, classes=4))
    with pytest.raises(InvalidBatch, match="it must be class ids"):
        learner.observe(Batch.of(torch.randn(2, 3), torch.randn(2)))
    with pytest.raises(InvalidBatch, match="labels span 4 to 5"):
        learner.observe(Batch.of(torch.randn(2, 3), torch.tensor([4, 5])))
    bad = torch.randn(2, 3)
    bad[1, 0] = torch.nan
    with pytest.raises(InvalidBatch, match="x holds NaN or infinity in 1 of 2 rows"):
        learner.observe(Batch.of(bad, torch.tensor([0, 1])))
    assert not learner.model.head.counts.any()


@pytest.mark.parametrize("logits", [None, 5])
def test_what_is_before_the_head_must_not_learn(logits):
    head = LDAHead(5, classes=4, logits=None if logits is None else GrowingHead(logits))
    net = Classifier(MLP(3, hidden=(5,)), head)
    before = copy.deepcopy(net.state_dict())
    optimizer = SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    learner = Learner(net, optimizer, [Analytic()])
    with pytest.raises(ValueError, match=r"backbone.layers.0.weight.* would learn.*warm=True"):
        learner.observe(batches_of(1)[0])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert learner.steps == 0
