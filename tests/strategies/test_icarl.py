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
    multi_head,
    seeded,
)
from torch import nn
from torch.nn import functional as F

from lifelong import Batch, ICaRL, Learner, Strategy, TaskSpec
from lifelong.core.errors import BudgetTooSmall, InvalidBatch, StateMismatch
from lifelong.memory import herding
from lifelong.nets import MASKED, MLP, Classifier, GrowingHead, NearestMeanHead


def nearest() -> torch.nn.Module:
    return Classifier(MLP(3, hidden=(5,)), NearestMeanHead(GrowingHead(5)))


def taught(model, icarl, *, first=0):
    learner = learner_of([icarl, seen := Capture()], model)
    learn(learner, first, batches_of(4, classes=(0, 1)), (0, 1))
    return learner, seen


def bits(output, target):
    """Binary cross-entropy of one output, by its definition."""
    p = torch.sigmoid(output)
    return -(target * p.log() + (1 - target) * (1 - p).log())


def test_in_the_first_task_it_is_one_against_the_rest_for_the_classes_so_far():
    learner = learner_of([ICaRL(20), seen := Capture()])
    learner.begin_task(TaskSpec(0, (0, 2)))
    loss = learner.observe(batches_of(1, classes=(0, 2))[0])
    batch, output = seen.batches[-1], seen.outputs[-1]
    total = sum(
        bits(output[i, c], float(batch.y[i] == c)) for i in range(len(batch)) for c in (0, 2)
    )
    torch.testing.assert_close(loss, total / len(batch))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("model", [growing, nearest])
def test_then_old_classes_are_held_to_the_teacher_and_new_ones_to_the_labels(model, temperature):
    learner, seen = taught(model, ICaRL(20, rows=4, temperature=temperature))
    teacher = seeded(model)
    head = teacher.head.logits if model is nearest else teacher.head
    (teacher.head if model is nearest else head).grow(TaskSpec(0, (0, 1)))
    teacher.load_state_dict(learner.model.state_dict())
    learner.begin_task(TaskSpec(1, (2, 3)))
    for batch in batches_of(3, classes=(2, 3), task=1):
        loss = learner.observe(batch)
        whole, output = seen.batches[-1], seen.outputs[-1]
        assert (len(whole), whole.new, whole.weight.tolist()) == (10, 6, [0.0] * 10)
        old = torch.sigmoid(head(teacher.backbone(whole.x)) / temperature)
        total = 0.0
        for i in range(10):
            total += bits(output[i, 0], old[i, 0]) + bits(output[i, 1], old[i, 1])
            total += sum(bits(output[i, c], float(whole.y[i] == c)) for c in (2, 3))
        torch.testing.assert_close(loss, total.detach() / 10)
        assert set(whole.y[6:].tolist()) <= {0, 1}


def test_exemplars_are_the_first_in_the_order_of_herding():
    icarl = ICaRL(8)
    learner, _ = taught(growing, icarl)
    batches = batches_of(4, classes=(0, 1))
    rows = Batch.of(*(torch.cat([getattr(b, n) for b in batches]) for n in ("x", "y")))
    key = torch.cat([batch.key for batch in batches])
    features = F.normalize(learner.model.embed(rows.x), dim=1).detach()
    expected = []
    for c in (0, 1):
        at = (rows.y == c).nonzero().flatten()
        expected += key[at[herding(features[at], 4)]].tolist()
    assert icarl.exemplars["key"].tolist() == expected
    assert icarl.exemplars["y"].tolist() == [0] * 4 + [1] * 4
    before = expected
    learn(learner, 1, batches_of(4, classes=(2, 3), task=1), (2, 3))
    kept = icarl.exemplars["key"].tolist()
    assert kept[:4] == [*before[:2], *before[4:6]]  # the first of each, in their order
    assert icarl.exemplars["y"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


class Shuffled(list):
    """Batches in another order at each pass."""

    def __iter__(self):
        self.reverse()
        return super().__iter__()


def test_exemplars_do_not_depend_on_the_order_of_a_second_pass():
    batches, kept = batches_of(4, classes=(0, 1)), []
    for kind in (list, Shuffled):
        icarl = ICaRL(8)
        learner = learner_of(icarl, growing)
        learner.begin_task(TaskSpec(0, (0, 1)))
        learner.end_task(kind(batches))
        assert icarl.exemplars["y"].tolist() == [0] * 4 + [1] * 4
        kept.append(icarl.exemplars["key"].tolist())
    assert kept[0] == kept[1]


def test_the_head_is_filled_with_the_means_of_the_exemplars_and_predicts_by_them():
    icarl = ICaRL(8)
    learner, _ = taught(nearest, icarl)
    learn(learner, 1, batches_of(4, classes=(2, 3), task=1), (2, 3))
    held = icarl.exemplars
    features = F.normalize(learner.model.embed(held["x"]), dim=1).detach()
    means = torch.stack([features[held["y"] == c].mean(0) for c in range(4)])
    torch.testing.assert_close(learner.model.head.means, F.normalize(means, dim=1))
    x = torch.randn(9, 3)
    unit = F.normalize(learner.model.embed(x), dim=1)
    nearest_class = torch.cdist(unit, F.normalize(means, dim=1)).argmin(1)
    assert torch.equal(learner.predict(x).argmax(1), nearest_class)


def test_a_class_of_the_open_task_is_not_predicted_yet():
    learner, _ = taught(nearest, ICaRL(8))
    learner.begin_task(TaskSpec(1, (2, 3)))
    learner.observe(batches_of(1, classes=(2, 3), task=1)[0])
    output = learner.predict(torch.randn(3, 3))
    assert (output[:, 2:] == MASKED).all()
    assert (output[:, :2] > MASKED).all()


def test_a_class_that_comes_again_chooses_among_old_and_new_rows():
    icarl = ICaRL(8)
    learner, _ = taught(growing, icarl)
    first = set(icarl.exemplars["key"].tolist())
    again = batches_of(4, classes=(0, 1), task=5)
    learn(learner, 5, again, (0, 1))
    held = set(icarl.exemplars["key"].tolist())
    assert len(held) == 8
    assert held <= first | {int(k) for batch in again for k in batch.key}
    assert held - first


def test_the_mean_of_a_class_follows_its_exemplars_when_some_are_erased():
    icarl = ICaRL(8)
    learner, _ = taught(nearest, icarl)
    held = icarl.exemplars
    before = learner.model.head.means.clone()
    learner.forget(held["key"][(held["y"] == 0) & (torch.arange(8) > 0)])
    assert icarl.lost == [0]
    learner.begin_task(TaskSpec(1, (2, 3)))
    features = F.normalize(learner.model.embed(icarl.exemplars["x"][:1]), dim=1).detach()[0]
    learner.observe(batches_of(1, classes=(2, 3), task=1)[0])
    assert icarl.lost == []
    means = learner.model.head.means
    torch.testing.assert_close(means[0], features)
    torch.testing.assert_close(means[1], before[1])
    assert means[2:].isnan().all()


@pytest.mark.parametrize("steps", [0, 1])
def test_a_class_whose_exemplars_are_all_erased_has_no_mean_and_is_not_predicted(steps):
    icarl = ICaRL(2)  # one for each class, whose mean is the features of that row
    learner, _ = taught(nearest, icarl)
    row = F.normalize(learner.model.embed(icarl.exemplars["x"][:1]), dim=1).detach()[0]
    torch.testing.assert_close(learner.model.head.means[0], row)
    learner.forget(icarl.exemplars["key"][icarl.exemplars["y"] == 0])
    batches = batches_of(2, classes=(1,), task=1)
    learner.begin_task(TaskSpec(1, (1,)))
    for batch in batches[:steps]:
        learner.observe(batch)
    if not steps:
        learner.end_task(batches)
    assert learner.model.head.means[0].isnan().all()
    assert (learner.predict(torch.randn(4, 3))[:, 0] == MASKED).all()


def test_a_step_that_fails_computes_no_mean():
    icarl = ICaRL(2)
    learner, _ = taught(nearest, icarl)
    before = learner.model.head.means.clone()
    learner.forget(icarl.exemplars["key"][:1])
    with pytest.raises(InvalidBatch, match="NaN or infinity"):
        learner.observe(Batch.of(torch.full((2, 3), torch.inf), torch.tensor([0, 1]), 0))
    assert torch.equal(learner.model.head.means, before)
    assert icarl.lost == [0]


def test_rows_count_by_the_weights_they_come_with():
    learner = learner_of([Weighted(), ICaRL(20), seen := Capture()])
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    loss = learner.observe(batches_of(1)[0])
    batch, output = seen.batches[-1], seen.outputs[-1]
    total = 0.0
    for i, w in enumerate(range(6)):
        total += w * sum(bits(output[i, c], float(batch.y[i] == c)) for c in range(4))
    torch.testing.assert_close(loss, total / 15)
    learner.strategies[0].times = 0.0
    assert float(learner.observe(batch)) == 0.0


class Weighted(Strategy):
    times = 1.0

    def extend(self, learner, batch):
        return replace(batch, weight=self.times * torch.arange(len(batch)).float())


def test_outputs_may_come_in_the_middle_of_a_task():
    learner, _ = taught(growing, ICaRL(8))
    batches = batches_of(2, classes=(2, 3), task=1)
    learner.begin_task(TaskSpec(1, (2, 3)))
    learner.observe(batches[0])
    learner.model.head.grow(TaskSpec(2, (4, 5)))
    learner.optimizer.add_param_group({"params": list(learner.model.head.blocks[-1].parameters())})
    learner.grown()
    assert learner.observe(batches[1]).isfinite()


def test_a_resumed_run_with_class_means_ends_the_same(tmp_path):
    def made():
        model = seeded(nearest)
        optimizer = torch.optim.Adam(model.parameters())
        return model, optimizer, [ICaRL(12)]

    tasks = [batches_of(4, classes=c, task=t) for t, c in enumerate(((0, 1), (2, 3), (4, 5)))]
    learner = Learner(*made())
    for task, batches in enumerate(tasks):
        if task == 2:
            learner.save(tmp_path / "there")
        learn(learner, task, batches, (2 * task, 2 * task + 1))
    other = Learner.load(tmp_path / "there", *made())
    learn(other, 2, tasks[2], (4, 5))
    before, after = copied(learner.model.state_dict()), other.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_model_that_wants_the_task_is_held_and_taught_too():
    learner, _ = taught(multi_head, ICaRL(8))
    batches = batches_of(3, classes=(2, 3), task=1)
    learn(learner, 1, batches, (2, 3))
    assert learner.predict(batches[0].x, 1).isfinite().all()


def test_more_classes_than_exemplars_are_refused_and_nothing_is_lost():
    icarl = ICaRL(2)
    learner, _ = taught(growing, icarl)
    learner.begin_task(TaskSpec(1, (2, 3)))
    batches = batches_of(2, classes=(2, 3), task=1)
    with pytest.raises(BudgetTooSmall, match="capacity is 2, for 4 classes"):
        learner.observe(batches[0])
    assert learner.steps == 4
    with pytest.raises(BudgetTooSmall, match="capacity is 2, for 4 classes"):
        learner.end_task(batches)
    assert icarl.exemplars["y"].tolist() == [0, 1]
    assert learner.current == 1


def test_classes_that_are_not_named_are_counted_when_the_task_ends():
    learner, _ = taught(lambda: MLP(3, hidden=(5,), outputs=4), icarl := ICaRL(2))
    learner.begin_task(1)
    batches = batches_of(2, classes=(2, 3), task=1)
    learner.observe(batches[0])
    with pytest.raises(BudgetTooSmall, match="capacity is 2, for 4 classes"):
        learner.end_task(batches)
    assert icarl.exemplars["y"].tolist() == [0, 1]


def test_classes_whose_exemplars_are_erased_leave_room_for_others():
    learner, _ = taught(growing, icarl := ICaRL(2))
    learner.forget(icarl.exemplars["key"])
    learn(learner, 1, batches_of(2, classes=(2, 3), task=1), (2, 3))
    assert icarl.exemplars["y"].tolist() == [2, 3]


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(InvalidBatch, match="it must be class ids"):
        learner_of(ICaRL(2)).observe(Batch.of(torch.zeros(2, 3), torch.zeros(2)))


@pytest.mark.parametrize("label", [3, 5])
def test_a_label_that_no_task_has_named_would_not_be_learned_and_is_refused(label):
    learner, _ = taught(lambda: MLP(3, hidden=(5,), outputs=6), ICaRL(20))
    learner.begin_task(TaskSpec(1, (2, 4)))
    before = copied(learner.parameters)
    rows = Batch.of(torch.zeros(3, 3), torch.tensor([2, label, 4]))
    with pytest.raises(InvalidBatch, match=rf"label {label} is none of .* far, \[0, 1, 2, 4\]"):
        learner.observe(rows)
    assert learner.steps == 4
    assert all(torch.equal(learner.parameters[name], before[name]) for name in before)
    learner.observe(Batch.of(torch.zeros(2, 3), torch.tensor([0, 1])))  # of the task before


class Dict(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x)}


@pytest.mark.parametrize(
    ("model", "classes", "told"),
    [
        (lambda: nn.Linear(3, 4), (0, 5), "class 5 is named for task 0, .* outputs 0 to 3"),
        (lambda: Dict(3, 4), (0, 1), "outputs in a dict"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2))), (0, 1), r"\(6, 2, 2\)"),
        (lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), (0, 1), r"shape \(6,\)"),
    ],
)
def test_outputs_of_which_some_class_has_none_are_refused_in_the_first_step(model, classes, told):
    learner = learner_of(ICaRL(20), model, loss=lambda output, batch: torch.zeros(len(batch)))
    learner.begin_task(TaskSpec(0, classes))
    expect_refused(learner, batches_of(1, classes=classes)[0], told, InvalidBatch)


def test_a_model_without_a_head_is_refused_in_the_first_step():
    learner = learner_of(ICaRL(20), Headless)
    expect_refused(learner, batches_of(1)[0], "name its last layer `head`")


def test_a_damaged_state_is_refused():
    icarl = ICaRL(8)
    taught(growing, icarl)
    state = icarl.state_dict()
    short = {**state, "exemplars": {**state["exemplars"], "x": torch.zeros(3, 3)}}
    with pytest.raises(StateMismatch, match="the exemplars of a state are damaged"):
        icarl.load_state_dict(short)


@pytest.mark.parametrize("settings", [{"capacity": 0}, {"rows": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="both must be 1 or more"):
        ICaRL(**settings)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="it must be positive"):
        ICaRL(20, temperature=temperature)


def test_bytes_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"capacity is '10MB'.*take Exemplars"):
        ICaRL("10MB")
