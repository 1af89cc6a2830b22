import math
from dataclasses import replace

import pytest
import torch
from strategy_models import (
    Capture,
    Headless,
    batches_of,
    copied,
    expect_refused,
    growing,
    learn,
    learner_of,
    mlp,
    multi_head,
)
from torch import nn
from torch.nn import functional as F

from lifelong import DGR, ERACE, Batch, Latents, Learner, MeRGAN, Replay, Strategy, TaskSpec
from lifelong.core.errors import GeneratorCollapsed, InvalidBatch, UnknownName
from lifelong.core.forward import forward, frozen_copy
from lifelong.nets import MLP, LatentModel


def small(**settings):
    return DGR(**{"width": 8, "strict": False, **settings})


def taught(learner, x, before, task=None):
    return forward(frozen_copy(learner.model, before), x, task)


def test_made_rows_weigh_as_the_old_tasks_and_have_the_labels_of_the_last_model():
    dgr, seen = small(), Capture()
    learner = learner_of([dgr, seen])
    for task in range(2):
        learn(learner, task, batches_of(3, task=task))
        before = copied(learner.parameters)
    learner.begin_task(2)
    batch = batches_of(1, task=2)[0]
    loss = learner.observe(batch)
    made = seen.batches[-1]
    assert (len(made), made.new, made.task[6:].unique().tolist()) == (12, 6, [-1])
    assert torch.equal(made.y[6:], taught(learner, made.x[6:], before).argmax(1))
    rows = F.cross_entropy(seen.outputs[-1], made.y, reduction="none")
    torch.testing.assert_close(loss, rows[:6].mean() / 3 + 2 / 3 * rows[6:].mean())


@pytest.mark.parametrize("rows", [2, 9])
def test_the_weights_do_not_depend_on_how_many_rows_are_made(rows):
    dgr, seen = small(rows=rows), Capture()
    learner = learner_of([dgr, seen])
    learn(learner, 0, batches_of(2))
    learner.begin_task(1)
    loss = learner.observe(batches_of(1, task=1)[0])
    losses = F.cross_entropy(seen.outputs[-1], seen.batches[-1].y, reduction="none")
    torch.testing.assert_close(loss, losses[:6].mean() / 2 + losses[6:].mean() / 2)


def test_soft_targets_are_the_last_models_softened_answers():
    dgr, seen = small(targets="soft", temperature=3.0), Capture()
    learner = learner_of([dgr, seen], growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    before = copied(learner.parameters)
    learner.begin_task(TaskSpec(1, (2, 3)))
    loss = learner.observe(batches_of(1, classes=(2, 3), task=1)[0])
    output, made = seen.outputs[-1], seen.batches[-1]
    p = F.pad((taught(learner, made.x[6:], before)[:, :2] / 3).softmax(1), (0, 2))
    entropy = -(p * (output[6:] / 3).log_softmax(1)).sum(1).mean()
    new = F.cross_entropy(output[:6], made.y[:6])
    torch.testing.assert_close(loss, new + 9 * entropy)


def test_a_model_that_wants_the_task_is_asked_under_an_old_one():
    dgr, seen = small(rows=200), Capture()
    learner = learner_of([dgr, seen], multi_head)
    learn(learner, 5, batches_of(2, classes=(0, 1), task=5), (0, 1))
    learn(learner, 7, batches_of(2, classes=(2, 3), task=7), (2, 3))
    learner.begin_task(TaskSpec(9, (4, 5)))
    learner.observe(batches_of(1, classes=(4, 5), task=9)[0])
    made = seen.batches[-1].rows(slice(6, None))
    assert 60 < int((made.task == 5).sum()) < 140
    assert set(made.task.tolist()) == {5, 7}
    assert torch.equal(made.y // 2, (made.task == 7).long())


def test_the_generator_learns_from_the_same_rows_with_the_same_weights():
    dgr, seen, calls = small(), Capture(), []
    learner = learner_of([dgr, Replay(20), seen])
    learn(learner, 0, batches_of(2))
    learn(learner, 1, batches_of(2, task=1))
    dgr.apprentice.learn = lambda x, y, weight, chance: calls.append((x, y, weight))
    learner.begin_task(2)
    learner.observe(batches_of(1, task=2)[0])
    [(x, y, weight)] = calls
    batch = seen.batches[-1]
    assert len(batch) == 18  # six new, six made, six from the memory, which are not its own
    assert torch.equal(x, batch.x[:12])
    assert torch.equal(y, batch.y[:12])
    assert weight.tolist() == [1.0] * 6 + [2.0] * 6


class Weighing(Strategy):
    """Weigh new rows, as many and as much as it is told."""

    weight = torch.ones(6)

    def extend(self, learner, batch):
        return replace(batch, weight=self.weight)


@pytest.mark.parametrize("weight", [[0.0, 2.0, 0.0, 1.0, 1.0, 5.0], [0.1] * 6])
def test_made_rows_weigh_as_the_old_tasks_whatever_new_rows_weigh(weight):
    dgr, seen, calls = small(rows=4), Capture(), []
    learner = learner_of([weighing := Weighing(), dgr, seen])
    for task in range(2):
        learn(learner, task, batches_of(2, task=task))
    dgr.apprentice.learn = lambda x, y, weight, chance: calls.append(weight)
    weighing.weight = torch.tensor(weight)
    learner.begin_task(2)
    loss = learner.observe(batches_of(1, task=2)[0])
    rows = F.cross_entropy(seen.outputs[-1], seen.batches[-1].y, reduction="none")
    new = (rows[:6] * weighing.weight).sum() / sum(weight)
    torch.testing.assert_close(loss, new / 3 + 2 / 3 * rows[6:].mean())
    [found] = calls
    torch.testing.assert_close(found, torch.tensor([*weight, *[2 * sum(weight) / 4] * 4]))


def test_rows_that_another_strategy_takes_over_are_learned_by_the_generator_as_ever():
    dgr, calls = small(), []
    learner = learner_of([ERACE(20), dgr])
    learn(learner, 0, batches_of(2))
    learn_, dgr.apprentice.learn = dgr.apprentice.learn, lambda *given: calls.append(given[2])
    learner.begin_task(1)
    assert learner.observe(batches_of(1, task=1)[0]).isfinite()
    assert calls[0].tolist() == [1.0] * 12
    dgr.apprentice.learn = learn_
    assert learner.observe(batches_of(1, task=1)[0]).isfinite()


def test_it_learns_regression_with_the_last_models_answers():
    net = MLP(3, hidden=(5,), outputs=1)
    dgr, seen = small(), Capture()
    learner = learner_of([dgr, seen], lambda: net, loss=nn.MSELoss())
    batches = [Batch.of(b.x, b.x.sum(1, keepdim=True)) for b in batches_of(2)]
    learn(learner, 0, batches)
    before = copied(learner.parameters)
    learner.begin_task(1)
    learner.observe(batches[0])
    made = seen.batches[-1]
    torch.testing.assert_close(made.y[6:], taught(learner, made.x[6:], before))


def test_bytes_are_replayed_as_bytes():
    net = nn.Sequential(nn.Flatten(), MLP(4, hidden=(5,), outputs=2))
    net.register_forward_pre_hook(lambda module, args: (args[0].float() / 255,))
    dgr, seen = small(), Capture()
    learner = learner_of([dgr, seen], lambda: net)
    x = torch.randint(256, (6, 1, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
    batch = Batch.of(x, torch.tensor([0, 1, 0, 1, 0, 1]))
    learn(learner, 0, [batch])
    learner.begin_task(1)
    learner.observe(batch)
    assert (seen.batches[-1].x.dtype, seen.batches[-1].x.shape) == (torch.uint8, (12, 1, 2, 2))


def test_a_collapsed_generator_is_noticed_at_the_end_of_its_task():
    dgr = small(strict=True)
    learner = learner_of(dgr)
    rows = batches_of(8, rows=32)
    with torch.no_grad():
        for batch in rows:  # classes far apart
            batch.x.add_(6 * F.one_hot(batch.y % 3, 3))
    for _ in range(40):
        for batch in rows:
            if learner.current is None:
                learner.begin_task(0)
            learner.observe(batch)
    dgr.apprentice.frozen = collapsed(dgr.apprentice.frozen)
    state = dgr.state_dict()
    with pytest.raises(GeneratorCollapsed, match=r"DGR has collapsed \(Fidelity\(overlap="):
        learner.end_task(rows)
    assert learner.current == 0
    assert dgr.tasks == 0
    assert dgr.reports == []
    assert torch.equal(dgr.state_dict()["generator"], state["generator"])
    del dgr.apprentice.frozen  # it has recovered
    learner.end_task(rows)
    [report] = dgr.reports
    assert report["overlap"] > 0.5
    assert report["distance"] < 1


def collapsed(frozen):
    """Generators that make one row for ever."""

    def broken(weights):
        net = frozen(weights)
        net.sample = lambda rows, chance, y=None: torch.ones(rows, 3)
        return net

    return broken


def test_reports_have_a_row_for_each_task():
    dgr = small()
    learner = learner_of(dgr)
    for task in range(3):
        learn(learner, task, batches_of(4, task=task))
    assert len(dgr.reports) == 3
    for report in dgr.reports:
        assert report.keys() == {"overlap", "diversity", "distance"}
        assert all(math.isfinite(value) for value in report.values())


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (Batch.of({"a": torch.zeros(2, 3)}, torch.zeros(2).long()), "dict"),
        (Batch.of(torch.zeros(2, 3).long(), torch.zeros(2).long()), "torch.int64"),
        (Batch.of(torch.full((2, 3), 2.0), torch.zeros(2).long()), "spans 2 to 2"),
        (Batch.of(torch.zeros(2, 4), torch.zeros(2).long()), r"generator makes floats of shape"),
        (Batch.of(torch.zeros(2, 3).byte(), torch.zeros(2).long()), "rows of torch.uint8"),
        (Batch.of(torch.zeros(2, 3), torch.zeros(2, 2).long()), r"y has shape \(2, 2\)"),
    ],
)
def test_rows_that_no_generator_makes_are_refused_before_the_step(batch, told):
    dgr = small(scale=1.0)
    learner = learner_of(dgr)
    first = batches_of(1)[0]
    learner.observe(Batch.of(first.x.sigmoid(), first.y))
    before = copied(learner.parameters)
    with pytest.raises(InvalidBatch, match=told):
        learner.observe(batch)
    assert all(torch.equal(before[name], p) for name, p in learner.parameters.items())


def test_settings_without_sense_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'gan'"):
        DGR("gam")
    for settings in (
        {"targets": "x"},
        {"temperature": 0},
        {"rows": -1},
        {"width": 0},
        {"scale": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(settings))):
            DGR(**settings)


def test_a_model_of_float64_learns_too():
    learner = learner_of(small(), lambda: mlp().double())
    for task in range(3):
        batches = [replace(b, x=b.x.double()) for b in batches_of(3, task=task)]
        learn(learner, task, batches)
    assert learner.steps == 9


@pytest.mark.parametrize(
    ("outputs", "y"),
    [
        (1, torch.ones(6, 1)),
        (0, torch.ones(6)),
        (1, torch.arange(6) % 2),
        (4, torch.full((6, 4), 0.3)),
    ],
)
def test_soft_targets_are_of_classes_which_the_first_step_looks_at(outputs, y):
    def model():
        return nn.Sequential(nn.Linear(3, max(outputs, 1)), *([] if outputs else [nn.Flatten(0)]))

    learner = learner_of(small(targets="soft"), model, loss=lambda out, y: out.flatten()[:6])
    before = copied(learner.parameters)
    with pytest.raises(InvalidBatch, match='take targets="hard"'):
        learner.observe(Batch.of(torch.randn(6, 3), y))
    assert learner.batches == 0
    for name, weight in before.items():
        assert torch.equal(learner.parameters[name], weight)


@pytest.mark.parametrize("kind", [DGR, MeRGAN])
def test_a_model_without_a_head_is_refused_in_the_first_step(kind):
    learner = learner_of(kind(width=8, strict=False), Headless)
    expect_refused(learner, batches_of(1)[0], "name its last layer `head`")


@pytest.mark.parametrize("kind", [DGR, MeRGAN])
def test_rows_that_become_latents_behind_it_are_refused_before_the_step(kind):
    net = LatentModel(nn.Linear(3, 5), nn.Linear(5, 4))
    optimizer = torch.optim.SGD(net.rest.parameters(), lr=0.1)
    learner = Learner(net, optimizer, [kind(width=8), Latents()])
    expect_refused(
        learner, batches_of(1)[0], f"behind {kind.__name__}, whose generator", InvalidBatch
    )


class Dict(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x)}


def first(output, batch):
    output = output["logits"] if isinstance(output, dict) else output
    return output.reshape(len(batch), -1)[:, 0]


@pytest.mark.parametrize("kind", [DGR, MeRGAN])
def test_outputs_in_a_dict_are_refused_in_the_first_step(kind):
    learner = learner_of(kind(width=8), lambda: Dict(3, 4), loss=first)
    expect_refused(
        learner, batches_of(1)[0], r"output is a dict; .* picks one of several", InvalidBatch
    )


@pytest.mark.parametrize(
    ("outputs", "y", "told"),
    [
        (2, torch.zeros(6), r"outputs of shape \(6, 2\) for y of shape \(6,\)"),
        (3, torch.zeros(6, 2), r"outputs of shape \(6, 3\) for y of shape \(6, 2\)"),
        (1, torch.arange(6) % 2, "are not of several classes"),
    ],
)
def test_outputs_that_cannot_be_the_targets_of_made_rows_are_refused_in_the_first_step(
    outputs, y, told
):
    learner = learner_of(small(), lambda: nn.Linear(3, outputs), loss=first)
    expect_refused(learner, Batch.of(torch.randn(6, 3), y), told, InvalidBatch)


def test_targets_of_the_outputs_size_are_made_whatever_their_shape():
    learner = learner_of(small(), lambda: nn.Linear(3, 1), loss=lambda o, y: (o[:, 0] - y) ** 2)
    batches = [Batch.of(b.x, b.x.sum(1)) for b in batches_of(2)]
    for task in range(2):
        learn(learner, task, batches)
    assert learner.steps == 4
