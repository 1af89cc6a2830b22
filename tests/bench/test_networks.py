import pytest
import torch
from small_runs import small
from torch import nn

from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.networks import experts, gated, packed, progressive, supermasked
from lifelong.core.growth import grow
from lifelong.core.task import TaskSpec
from lifelong.nets import (
    MLP,
    Classifier,
    GrowingHead,
    MultiHead,
    Pixels,
    ResNet18,
    SmallCNN,
    TaskClassifier,
)

ALL = (progressive, packed, gated, supermasked, experts)
TOLD = ("progressive", "packnet", "hat", "supsup", "experts", "task-lora", "bottlenecks")


def models():
    yield MLP(6, hidden=(5,), outputs=4)
    yield Classifier(MLP(6, hidden=(5,)), nn.Linear(5, 4), Pixels(scale=1.0))
    yield Classifier(MLP(6, hidden=(5,)), GrowingHead(5))
    yield TaskClassifier(MLP(6, hidden=(5,)), MultiHead(5))
    yield nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    yield nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


@pytest.mark.parametrize("network", ALL)
def test_each_network_is_made_of_any_suites_model(network):

    for model in models():
        made = network(model)
        for task in range(2):
            grow(made, TaskSpec(task, (2 * task, 2 * task + 1)))
        asked = {} if network is experts else {"task": torch.tensor([0, 1, 1])}
        assert made(torch.rand(3, 6), **asked).shape == (3, 4)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="ResNet18 is no sequence"):
        progressive(ResNet18(width=4))
    with pytest.raises(ValueError, match="SmallCNN does not say how many inputs"):
        experts(SmallCNN(1, 8))
    for odd in (nn.Sequential(), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))):
        with pytest.raises(ValueError, match="Sequential does not say how many inputs"):
            experts(odd)


@pytest.mark.parametrize("strategy", TOLD)
def test_a_run_of_the_digits_with_the_task_told_learns(strategy):
    config = small(strategy, scenario="task-incremental", head="multi", tasks=2)
    stream = stream_of(config)
    learner = learner_of(config, stream)
    for task in stream:
        learner.begin_task(task)
        for batch in task:
            assert learner.observe(batch).isfinite()
        learner.end_task(task)
    assert learner.predict(stream.tests[0].x, 0).shape == (len(stream.tests[0]), 10)


def test_permuted_suites_tell_the_task_where_the_head_has_parts():
    for head, told in (("multi", True), ("fixed", False)):
        config = small("packnet", scenario="permuted", head=head, tasks=2)
        assert stream_of(config).task_known is told
