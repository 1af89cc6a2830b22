import math
from functools import partial

import pytest
import torch
from strategy_models import (
    Capture,
    batches_of,
    copied,
    expect_close,
    growing,
    learn,
    learner_of,
    multi_head,
)
from torch import nn
from torch.nn import functional as F

from lifelong import Analytic, MeanTeacher, Replay, TaskSpec
from lifelong.core.errors import InvalidBatch
from lifelong.core.forward import frozen_copy
from lifelong.nets import Classifier, GrowingHead, LDAHead, MeansHead, RidgeHead


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.999])
def test_the_average_is_that_of_the_equation(decay):
    own = MeanTeacher(0.0, decay=decay)
    learner = learner_of(own)
    expected = None
    for n, batch in enumerate(batches_of(5), start=1):
        learner.observe(batch)
        weights = copied(learner.parameters)
        d = min(1 - 1 / (n + 1), decay)
        expected = expected or weights
        expected = {name: d * expected[name] + (1 - d) * weights[name] for name in weights}
        expect_close(own.average, expected)


def test_the_penalty_is_the_squared_distance_on_replayed_rows():
    own, seen = MeanTeacher(0.5, decay=0.5), Capture()
    learner = learner_of([Replay(20), own, seen])
    for number, batch in enumerate(batches_of(4)):
        average = copied(own.average)
        loss = learner.observe(batch)
        whole, output = seen.batches[-1], seen.outputs[-1]
        expected = F.cross_entropy(output, whole.y)
        if number:
            taught = frozen_copy(learner.model, average)(whole.x[6:])
            expected += 0.5 * (output[6:] - taught).square().mean()
        torch.testing.assert_close(loss, expected)


def test_batches_without_a_step_do_not_count_twice():
    own = MeanTeacher(0.0, decay=0.5)
    learner = learner_of(own, accumulate=2)
    learner.observe(batches_of(1)[0])
    assert own.average == {}
    for batch in batches_of(3):
        learner.observe(batch)
    assert (own.seen, learner.steps) == (2, 2)


def test_outputs_that_the_average_lacks_are_not_compared():
    own, seen = MeanTeacher(1.0, decay=0.5, rows="all"), Capture()
    learner = learner_of([own, seen], growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    average = copied(own.average)
    learner.begin_task(TaskSpec(1, (2, 3)))
    batch = batches_of(1, classes=(2, 3), task=1)[0]
    taught = frozen_copy(learner.model, average)(batch.x)
    loss = learner.observe(batch)
    output = seen.outputs[-1]
    expected = F.cross_entropy(output, batch.y) + (output - taught)[:, :2].square().mean()
    torch.testing.assert_close(loss, expected)
    assert own.width == 4
    assert own.average.keys() == dict(learner.model.named_parameters()).keys() | {"head._like"}


def test_a_model_that_wants_the_task_is_compared_on_what_it_shows():
    own = MeanTeacher(1.0, rows="all")
    learner = learner_of(own, multi_head)
    for task, classes in enumerate(((0, 1), (2, 3))):
        learn(learner, task, batches_of(3, classes=classes, task=task), classes)
    loss = None
    learner.begin_task(TaskSpec(2, (4, 5)))
    for batch in batches_of(2, classes=(4, 5), task=2):
        loss = learner.observe(batch)
    assert float(loss) < 10  # a masked output against a shown one would cost millions


def test_statistics_are_averaged_and_counts_taken_over():
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    own = MeanTeacher(0.1, decay=0.5, rows="all")
    learner = learner_of(own, lambda: net)
    first, second = batches_of(2)
    learner.observe(first)
    before = learner.model[1].running_mean.clone()
    learner.observe(second)
    after = learner.model[1].running_mean
    torch.testing.assert_close(own.average["1.running_mean"], (before + after) / 2)
    assert own.average["1.num_batches_tracked"] == 2


def test_weights_that_do_not_learn_are_part_of_the_average():
    def partly() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4))
        net[0].requires_grad_(False)
        return net

    own = MeanTeacher(1.0, decay=0.5, rows="all")
    net = partly()
    learner = learner_of(own, lambda: net)
    learner.observe(batches_of(1)[0])
    held = own.average
    learner.observe(batches_of(1)[0])
    assert own.average is held  # so its copy need not be made anew
    assert torch.equal(held["0.weight"], net[0].weight)


HEADS = {"means": MeansHead, "lda": LDAHead, "ridge": partial(RidgeHead, width=20)}


@pytest.mark.parametrize("kind", HEADS.values(), ids=HEADS.keys())
def test_sums_of_a_computed_head_are_not_averaged(kind):
    own, seen = MeanTeacher(0.5, decay=0.5), Capture()
    learner = learner_of(
        [Analytic(warm=True), Replay(20), own, seen],
        lambda: Classifier(nn.Linear(3, 5), kind(5, logits=GrowingHead(5))),
    )
    for task, classes in enumerate(((0, 1), (2, 3))):
        learner.begin_task(TaskSpec(task, classes))
        batches = batches_of(4, classes=classes, task=task)
        for batch in batches:
            average, width = copied(own.average), own.width
            loss = learner.observe(batch)
            whole, output = seen.batches[-1], seen.outputs[-1]
            expected = F.cross_entropy(output, whole.y)
            if len(whole) > whole.new:  # through what is trained of the head, as in training
                taught = frozen_copy(learner.model, average).train()(whole.x[whole.new :])
                apart = output[whole.new :, :width] - taught[:, :width]
                expected += 0.5 * apart.square().mean()
            torch.testing.assert_close(loss, expected)
        learner.end_task(batches)
    parts = {tuple(name.split(".")[:2]) for name in own.average}
    assert parts == {("backbone", "weight"), ("backbone", "bias"), ("head", "logits")}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": math.nan}, "strength is nan"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"rows": "some"}, "rows is 'some'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        MeanTeacher(**settings)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 1)

    def forward(self, x):
        return {"a": self.output(x)}


@pytest.mark.parametrize(
    ("model", "found"),
    [(lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), r"shape \(6,\)"), (Two, "a dict")],
)
def test_outputs_that_are_no_lists_are_refused_before_the_step(model, found):
    def loss(output, batch):
        output = output["a"] if isinstance(output, dict) else output
        return output.flatten().square()

    learner = learner_of(MeanTeacher(), model, loss=loss)
    before = copied(learner.parameters)
    with pytest.raises(InvalidBatch, match=found):
        learner.observe(batches_of(1)[0])
    assert learner.steps == learner.batches == 0
    expect_close(copied(learner.parameters), before, 0.0)
