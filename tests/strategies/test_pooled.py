import pytest
import torch
from strategy_models import batches_of, expect_refused, learn, learner_of
from torch import nn
from torch.nn import functional as F

from lifelong import Batch, PooledDistillation
from lifelong.nets import ResNet18, SmallCNN
from lifelong.strategies.glimpse import Glimpse
from lifelong.strategies.pooled import last_of_each_size


def images(count: int, rows: int = 4, task: int = 0) -> list[Batch]:
    chance = torch.Generator().manual_seed(task)
    return [
        Batch.of(
            torch.rand(rows, 1, 8, 8, generator=chance),
            torch.randint(4, (rows,), generator=chance),
            task,
        )
        for _ in range(count)
    ]


def cnn() -> nn.Module:
    return SmallCNN(1, 8, widths=(3, 4), hidden=6, outputs=4)


def pooled(map):
    """One row's map, (channels, height, width), summed by hand along either side."""
    sums = [
        sum(float(map[c, i, j]) ** 2 for i in range(map.shape[1]))
        for c in range(map.shape[0])
        for j in range(map.shape[2])
    ] + [
        sum(float(map[c, i, j]) ** 2 for j in range(map.shape[2]))
        for c in range(map.shape[0])
        for i in range(map.shape[1])
    ]
    found = torch.tensor(sums)
    return found / max(float(found.norm()), 1e-6)


def look(model, layers, x):
    glimpse = Glimpse()
    glimpse.watch(model, layers)
    with torch.no_grad():
        model(x)
    return glimpse


def test_the_penalty_is_the_mean_distance_of_pooled_maps_and_features():
    own = PooledDistillation(0.5, flat=2.0)
    learner = learner_of(own, cnn)
    learn(learner, 0, images(2))
    learner.begin_task(1)
    batches = images(3, task=1)
    then = [look(learner.model, own.layers, batch.x) for batch in batches]
    for batch, taught in zip(batches, then, strict=True):
        now = look(learner.model, own.layers, batch.x)
        spatial = 0.0
        for name in own.layers:
            apart = [
                float((pooled(a) - pooled(b)).norm())
                for a, b in zip(now.maps[name], taught.maps[name], strict=True)
            ]
            spatial += sum(apart) / len(apart) / len(own.layers)
        flat = 1 - F.cosine_similarity(now.features, taught.features, eps=1e-3).mean()
        loss = F.cross_entropy(learner.output(batch), batch.y)
        expected = float(loss.detach()) + 0.5 * (spatial + 2.0 * float(flat))
        assert float(learner.observe(batch)) == pytest.approx(expected, rel=1e-4)


def test_the_ends_of_a_resnets_stages_are_found():
    learner = learner_of([], lambda: ResNet18(1, width=2, outputs=4))
    found = last_of_each_size(learner, images(1, rows=1)[0])
    assert found == ["blocks.1", "blocks.3", "blocks.5", "blocks"]  # the last is all of them
    assert not any(m._forward_hooks for m in learner.model.modules())


def test_looking_for_layers_leaves_no_trace():
    learner = learner_of([], lambda: ResNet18(1, width=2, outputs=4))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    last_of_each_size(learner, images(1)[0])
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert learner.model.training
    assert all(p.grad is None for p in learner.model.parameters())


def test_a_model_without_maps_has_the_features_alone():
    own = PooledDistillation(3.0, flat=0.5)
    learner = learner_of(own)
    learn(learner, 0, batches_of(2))
    assert own.layers == []
    learner.begin_task(1)
    first, second = batches_of(2, task=1)
    then = look(learner.model, [], second.x)
    learner.observe(first)
    now = look(learner.model, [], second.x)
    apart = 1 - F.cosine_similarity(now.features, then.features, eps=1e-3).mean()
    expected = F.cross_entropy(learner.output(second), second.y) + 1.5 * apart
    torch.testing.assert_close(learner.observe(second), expected.detach())


def test_named_layers_are_kept_to():
    own = PooledDistillation(layers=["layers.0"])
    learner = learner_of(own, cnn)
    learn(learner, 0, images(1))
    assert own.layers == ["layers.0"]


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("stage", "no module 'stage'"),
        ("output", "module 'output' gives none in front of the head"),
        ("layers.11", r"module 'layers.11' gives \(4, 6\) in front of the head"),
    ],
)
def test_a_layer_that_gives_no_map_before_the_head_is_named_in_the_first_step(layer, told):
    learner = learner_of(PooledDistillation(layers=["layers.0", layer]), cnn)
    expect_refused(learner, images(1)[0], told)


@pytest.mark.parametrize(
    ("settings", "told"), [({"flat": -1.0}, "strength is -1.0"), ({"rows": "x"}, "rows is 'x'")]
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        PooledDistillation(**settings)
