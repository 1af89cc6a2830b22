import copy

import pytest
import torch
from torch.optim import Adam

from lifelong import Batch, Learner, Orthogonal, Replay, TaskSpec
from lifelong.core.growth import grow
from lifelong.nets import MLP, Classifier, GrowingHead, Prompted, Transformer
from lifelong.nets.prompts import Prompts


def prompted(**settings):
    torch.manual_seed(0)
    backbone = Transformer(tokens=9, width=8, heads=2, layers=2, length=6, dropout=0.2)
    return Prompted(backbone, **{"components": 2, "length": 4, **settings})


def test_a_prompt_is_the_sum_of_components_by_cosine():
    torch.manual_seed(0)
    pool = Prompts(5, length=2, components=3)
    grow(pool, TaskSpec(0))
    query = torch.randn(4, 5)
    key, attention, value = (pool.joined(name) for name in ("key", "attention", "value"))
    for row in range(4):
        told = torch.zeros(2, 5)
        for m in range(3):
            asked = query[row] * attention[m]
            told += asked @ key[m] / asked.norm() / key[m].norm() * value[m]
        torch.testing.assert_close(pool(query)[row], told)


def test_new_components_are_orthogonal_to_earlier_ones_while_there_is_room():
    torch.manual_seed(0)
    pool = Prompts(6, length=2, components=2)
    for task in range(3):
        grow(pool, TaskSpec(task))
        for name in ("key", "attention", "value"):
            flat = pool.joined(name).flatten(1)
            torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat)), atol=1e-5, rtol=0)
    assert float(pool.overlap().detach()) < 1e-6
    assert len(grow(pool, TaskSpec(3))) == 3  # no room: as they are drawn
    flat = pool.joined("key")
    told = (flat @ flat.T - torch.eye(8)).square().sum()
    assert float(pool.overlap().detach()) >= float(told.detach()) > 1
    assert grow(pool, TaskSpec(3)) == []


def test_earlier_components_and_the_backbone_are_frozen():
    net = prompted(blocks=2)
    grow(net, TaskSpec(0))
    grow(net, TaskSpec(4))
    free = {name.split(".")[3] for name, p in net.named_parameters() if p.requires_grad}
    assert free == {"4"}
    assert not net.train().backbone.training


def test_a_task_that_is_frozen_does_not_begin_again():
    net = prompted(blocks=2)
    grow(net, TaskSpec(0))
    grow(net, TaskSpec(4))
    with pytest.raises(ValueError, match="task 0 is frozen since task 4 began"):
        grow(net, TaskSpec(0))
    assert grow(net, TaskSpec(4)) == []


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_components_are_drawn_in_any_precision(kind):
    net = prompted().to(kind)
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for task in range(2):
        grow(net, TaskSpec(task))
        flat = net.pools[0].joined("key")
        assert flat.dtype == net(x).dtype == kind
        close = 1e-12 if kind == torch.float64 else 1e-2
        told = torch.eye(len(flat), dtype=kind)
        torch.testing.assert_close(flat @ flat.T, told, atol=close, rtol=0)


def test_before_the_first_task_features_are_the_backbones_own_and_prompts_change_them():
    net, x = prompted(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain = net.backbone(x)
    assert torch.equal(net(x), plain)
    grow(net, TaskSpec(0))
    assert not torch.allclose(net(x), plain)
    keys, values = net.pools[0](plain).chunk(2, dim=1)
    torch.testing.assert_close(net(x), net.backbone(x, prefix=[(keys, values), None]))


def _learner(seed=0):
    net = Classifier(prompted(), GrowingHead(8))
    torch.manual_seed(seed)
    strategies = [Orthogonal(0.1), Replay(20)]
    return Learner(net, Adam(net.parameters(), lr=0.05), strategies, seed=seed)


def _batch(task):
    x = torch.arange(1, 5).repeat(2, 1) + torch.tensor([[task], [2 + task]])
    return Batch.of(x, torch.tensor([2 * task, 2 * task + 1]), task)


def test_prompts_are_learned_and_resume_to_the_bit(tmp_path):
    learner = _learner()
    for task in range(2):
        learner.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
        for step in range(25):
            if (task, step) == (1, 5):
                learner.save(tmp_path / "middle.safetensors")
            learner.observe(_batch(task))
        learner.end_task([_batch(task)])
    for task in range(2):
        assert torch.equal(learner.predict(_batch(task).x).argmax(1), _batch(task).y)
    parts = _learner(seed=3)
    resumed = Learner.load(
        tmp_path / "middle.safetensors", parts.model, parts.optimizer, [Orthogonal(0.1), Replay(20)]
    )
    for _ in range(20):
        resumed.observe(_batch(1))
    resumed.end_task([_batch(1)])
    one, other = learner.model.state_dict(), resumed.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    exported = copy.deepcopy(resumed.model).eval()
    with torch.no_grad():
        assert torch.equal(exported(_batch(0).x), learner.predict(_batch(0).x))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"components": 0}, "components is 0"),
        ({"length": 3}, "length is 3; it must be even"),
        ({"blocks": 3}, "blocks is 3; the backbone has 2"),
    ],
)
def test_wrong_sizes_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        prompted(**settings)


def test_a_backbone_without_a_pool_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="make it with pool='mean' or 'first'"):
        Prompted(Transformer(tokens=50, width=16, heads=2, pool="none"))
    Prompted(Transformer(tokens=50, width=16, heads=2, pool="first"))


def test_only_a_transformer_is_given_prompts():
    for other in (MLP(4), Classifier(MLP(4, hidden=(3,)), GrowingHead(3))):
        with pytest.raises(ValueError, match=f"type {type(other).__name__}, .*add_lora"):
            Prompted(other)


def test_cosines_of_zero_queries_are_zero():
    pool = Prompts(4, length=2, components=2)
    grow(pool, TaskSpec(0))
    assert torch.equal(pool(torch.zeros(1, 4)), torch.zeros(1, 2, 4))
