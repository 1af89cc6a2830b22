from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import (
    Capture,
    batches_of,
    copied,
    expect_close,
    growing,
    learn,
    learner_of,
    mlp,
    multi_head,
)
from torch.nn import functional as F
from torch.optim import SGD

from lifelong import OGD, Batch, Learner, TaskSpec
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.nets import MLP, TaskClassifier, TaskHeads
from lifelong.strategies.ogd import orthonormal

CLASSES = ((0, 1), (2, 3), (0, 3), (1, 2))


def flat(gradients, spans):
    row = torch.zeros(max(stop for _, stop in spans.values()))
    for name in gradients.keys() & spans.keys():
        row[slice(*spans[name])] = gradients[name].flatten()
    return row


@pytest.mark.parametrize("model", [mlp, growing, multi_head])
def test_the_gradient_is_orthogonal_to_what_moves_old_answers(model):
    ogd, seen = OGD(20), Capture()
    learner = learner_of([ogd, seen], model)
    basis, before = ogd.basis, ogd.spans
    for task, classes in enumerate(CLASSES):
        learn(learner, task, batches_of(4, classes=classes, task=task), classes)
        held = len(ogd.basis)
        assert 0 < held <= 20
        square = ogd.basis @ ogd.basis.T
        torch.testing.assert_close(square, torch.eye(held), rtol=0, atol=1e-5)
        if task:
            own = flat(seen.gradients[-1], before)
            assert own.norm() > 1e-3
            assert (basis @ own).abs().max() <= 1e-5 * own.norm()
        basis, before = ogd.basis.clone(), dict(ogd.spans)


def test_the_directions_are_gradients_of_the_outputs_for_the_labels():
    ogd = OGD(100)
    learner = learner_of(ogd)
    batches = batches_of(3)
    learn(learner, 0, batches)
    learner.model.eval()
    for batch in batches:
        for i in range(len(batch)):
            output = learner.output(batch.rows(slice(i, i + 1)))[0, batch.y[i]]
            grads = torch.autograd.grad(output, list(learner.parameters.values()))
            row = flat(dict(zip(learner.parameters, grads, strict=True)), ogd.spans)
            rest = row - (ogd.basis @ row) @ ogd.basis
            assert rest.norm() <= 1e-3 * row.norm()


def test_a_small_step_leaves_old_answers_as_they_are():
    moved = []
    for ogd in ([OGD(100)], []):
        learner = learner_of(ogd, lr=1e-3)
        old = batches_of(3, classes=(0, 1))
        learn(learner, 0, old)
        x, y = torch.cat([b.x for b in old]), torch.cat([b.y for b in old])
        before = learner.predict(x).gather(1, y[:, None])
        learn(learner, 1, batches_of(3, classes=(2, 3), task=1))
        moved.append((learner.predict(x).gather(1, y[:, None]) - before).abs().mean())
    assert moved[0] < 0.05 * moved[1]


def task_heads():
    return TaskClassifier(MLP(3, hidden=(8,)), TaskHeads(8))


def expect_orthogonal_to_what_is_left(ogd, gradients):
    own, cut = flat(gradients, ogd.spans), torch.zeros_like(ogd.basis)
    for name in gradients.keys() & ogd.spans.keys():
        cut[:, slice(*ogd.spans[name])] = ogd.basis[:, slice(*ogd.spans[name])]
    assert own.norm() > 1e-3
    assert ((cut @ own).abs() <= 1e-5 * own.norm() * cut.norm(dim=1).clamp(min=1e-6)).all()


def test_old_answers_stay_where_the_old_tasks_outputs_are_frozen():
    moved = []
    for ogd in ([OGD(50)], []):
        learner = learner_of([*ogd, seen := Capture()], task_heads, lr=1e-3)
        old = batches_of(1, 4, classes=(0, 1))[0]
        learn(learner, 0, [old], (0, 1))
        learner.begin_task(TaskSpec(1, (2, 3)))
        before = learner.predict(old.x, 0).gather(1, old.y[:, None])
        learner.observe(batches_of(1, 4, classes=(2, 3), task=1)[0])
        after = learner.predict(old.x, 0).gather(1, old.y[:, None])
        moved.append(float((after - before).abs().max()))
        if ogd:
            assert len(ogd[0].basis) == 4
            expect_orthogonal_to_what_is_left(ogd[0], seen.gradients[-1])
    assert moved[0] < 1e-6
    assert moved[1] > 1e-5


def test_whatever_has_a_gradient_it_is_orthogonal_to_what_is_left_of_the_directions():
    learner = learner_of([ogd := OGD(30), seen := Capture()], task_heads)
    for task, classes in enumerate(CLASSES[:3]):
        learn(learner, task, batches_of(4, classes=classes, task=task), classes)
        if task:
            learner.observe(batches_of(1, classes=classes, task=task)[0])
            expect_orthogonal_to_what_is_left(ogd, seen.gradients[-1])
    first, *others = learner.model.backbone.parameters()
    for frozen in ([first], others):
        for parameter in learner.model.backbone.parameters():
            parameter.requires_grad_(all(parameter is not f for f in frozen))
        learner.grown()
        learner.observe(batches_of(1, 20, classes=CLASSES[2], task=2)[0])
        assert len(seen.gradients[-1]) < len(ogd.spans)
        expect_orthogonal_to_what_is_left(ogd, seen.gradients[-1])
    learner.forget(batches_of(1, classes=CLASSES[0])[0].key[:1])
    assert ogd._cut is None  # no copy of the directions outlives them


def test_tasks_share_the_directions():
    ogd = OGD(9)
    learner = learner_of(ogd)
    counts = []
    for task in range(12):
        learn(learner, task, batches_of(2, task=task))
        counts.append(sorted(ogd.owner.unique(return_counts=True)[1].tolist(), reverse=True))
    assert counts[:3] == [[9], [4, 4], [3, 3, 3]]
    assert all(sum(own) <= 9 for own in counts)
    assert len(counts[-1]) == 9  # with more tasks than directions, some have none


def test_new_outputs_have_a_place_and_old_directions_are_zero_there():
    ogd = OGD(10)
    learner = learner_of(ogd, growing)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    first = dict(ogd.spans)
    learn(learner, 1, batches_of(2, classes=(2, 3), task=1), (2, 3))
    assert {name: ogd.spans[name] for name in first} == first
    new = ogd.basis[ogd.owner == 0][:, max(stop for _, stop in first.values()) :]
    assert new.shape[1] == 12
    assert not new.any()


@given(st.integers(0, 2**31), st.integers(0, 6), st.integers(1, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_orthonormal_basis_spans_what_it_should(seed, held, count, alike):
    chance = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(10, held, generator=chance)).Q.T
    rows = torch.randn(count, 10, generator=chance)
    if alike:  # copies, sums, what is in the basis already, and nothing
        rows = torch.cat((rows, rows[:1], rows.sum(0, keepdim=True), basis[:1], torch.zeros(1, 10)))
    rows = rows * 10.0 ** torch.randint(-3, 4, (len(rows), 1), generator=chance)
    found = orthonormal(rows, basis)
    whole = torch.cat((basis, found))
    torch.testing.assert_close(whole @ whole.T, torch.eye(len(whole)), rtol=0, atol=2e-6)
    rest = rows - (rows @ whole.T) @ whole
    assert (rest.norm(dim=1) <= 2e-3 * rows.norm(dim=1)).all()
    assert len(whole) == torch.linalg.matrix_rank(torch.cat((basis, rows / rows.norm(
        dim=1, keepdim=True).clamp(min=1e-9))), rtol=1e-4)  # fmt: skip


def recovered(ogd, learner, x):
    """How well some direction of the first layer gives a row's values back, up to their scale."""
    start, stop = ogd.spans["layers.0.weight"]
    directions = ogd.basis[:, start:stop].view(
        len(ogd.basis), *learner.model.layers[0].weight.shape
    )
    spans = directions.flatten(0, 1)
    spans = spans[spans.norm(dim=1) > 1e-6]
    return 0.0 if not len(spans) else float(F.cosine_similarity(spans, x, dim=1).abs().max())


def test_a_direction_gives_its_row_back_and_forget_leaves_no_trace():
    learner = learner_of(ogd := OGD(1))
    batches = batches_of(1, rows=1)
    learn(learner, 0, batches)
    assert recovered(ogd, learner, batches[0].x) > 0.9999
    learner.forget(batches[0].key)
    assert recovered(ogd, learner, batches[0].x) == 0.0
    assert len(ogd.keys) == len(ogd.origin) == 0
    learn(learner, 1, batches_of(2, task=1))
    assert len(ogd.basis) == 1


def test_forgetting_a_row_is_as_if_neither_its_task_nor_those_after_it_had_been_there():
    learner = learner_of(ogd := OGD(40))
    tasks = [batches_of(1, task=task, rows=4) for task in range(3)]
    held = []
    for task, batches in enumerate(tasks):
        learn(learner, task, batches)
        held.append(ogd.basis.clone())
    learner.forget([77])
    ogd.forget(torch.tensor([-1]))
    assert torch.equal(ogd.basis, held[2])
    learner.forget(tasks[1][0].key[:1])
    assert torch.equal(ogd.basis, held[0])
    assert ogd.owner.tolist() == [0] * len(held[0])
    assert sorted(ogd.keys.tolist()) == sorted(tasks[0][0].key.tolist())
    learn(learner, 3, batches_of(1, task=3, rows=4))
    assert ogd.owner.unique().tolist() == [0, 3]
    learner.forget(tasks[0][0].key[:1])
    assert len(ogd.basis) == 0


def test_a_damaged_state_is_refused():
    ogd = OGD(5)
    learner = learner_of(ogd)
    learn(learner, 0, batches_of(2))
    state = learner.state_dict()
    part = state["strategies"][0]["state"]
    for name, value in (
        ("basis", part["basis"][:, :-1]),
        ("owner", part["owner"][:-1]),
        ("keys", part["keys"][:-1]),
    ):
        other = learner_of(OGD(5))
        damaged = [{"kind": "OGD", "state": {**part, name: value}}]
        with pytest.raises(StateMismatch, match="damaged"):
            other.load_state_dict({**state, "strategies": damaged})


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match="directions is 0"):
        OGD(0)
    model = torch.nn.Linear(2, 1)
    learner = Learner(model, SGD(model.parameters(), lr=0.1), [OGD()], loss=torch.nn.MSELoss())
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="class ids"):
        learner.end_task([Batch.of(torch.zeros(4, 2), torch.zeros(4, 1))])


def test_a_model_of_float64_learns_too():
    learner = learner_of(OGD(20), lambda: mlp().double())
    for task in range(3):
        batches = [replace(b, x=b.x.double()) for b in batches_of(3, task=task)]
        learn(learner, task, batches)
    assert learner.steps == 9


@pytest.mark.parametrize("y", [torch.ones(6), torch.ones(6, 4), torch.ones(6, 4).long()])
def test_labels_that_are_no_classes_are_refused_in_the_first_step(y):
    learner = learner_of(OGD(), loss=lambda output, y: output.square().mean(1))
    before = copied(learner.parameters)
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="no class a row"):
        learner.observe(Batch.of(torch.randn(6, 3), y, 0, torch.arange(6)))
    assert learner.steps == learner.batches == 0
    expect_close(copied(learner.parameters), before, 0.0)


def test_outputs_that_are_none_for_a_class_are_refused_in_the_first_step():
    def model():
        return torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))

    learner = learner_of(OGD(), model, loss=lambda output, y: output.square())
    with pytest.raises(InvalidBatch, match=r"outputs of shape \(6,\) .* an output for each class"):
        learner.observe(batches_of(1)[0])
    assert learner.steps == 0
