import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import (
    Capture,
    Headless,
    batches_of,
    copied,
    expect_close,
    expect_refused,
    growing,
    learn,
    learner_of,
)
from torch import nn
from torch.nn import functional as F

from lifelong import Batch, BiC, TaskSpec
from lifelong.core.errors import BudgetTooSmall, InvalidBatch
from lifelong.nets import MLP, Classifier, CosineHead
from lifelong.strategies.bic import DAMPING, LEAST, fitted


def objective(alpha, beta, logits, y, corrected):
    output = torch.where(corrected, logits * alpha + beta, logits)
    return float(F.cross_entropy(output, y) + DAMPING * ((alpha - 1) ** 2 + beta**2))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20))
def test_the_fit_is_better_than_any_neighbour(seed, rows):
    chance = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, 4, generator=chance).double()
    y = torch.randint(4, (rows,), generator=chance)
    corrected = torch.tensor([False, False, True, True])
    alpha, beta = fitted(logits, y, corrected)
    best = objective(alpha, beta, logits, y, corrected)
    assert alpha >= LEAST
    for da in (-0.05, 0.0, 0.05):
        for db in (-0.05, 0.0, 0.05):
            other = max(alpha + da, LEAST)
            assert objective(other, beta + db, logits, y, corrected) >= best - 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20))
def test_without_a_shift_alpha_alone_is_the_best_there_is(seed, rows):
    chance = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, 4, generator=chance).double()
    y = torch.randint(4, (rows,), generator=chance)
    corrected = torch.tensor([False, False, True, True])
    alpha, beta = fitted(logits, y, corrected, shift=False)
    assert beta == 0.0
    assert alpha >= LEAST
    best = objective(alpha, 0.0, logits, y, corrected)
    for da in (-0.05, 0.05):
        assert objective(max(alpha + da, LEAST), 0.0, logits, y, corrected) >= best - 1e-9


def test_no_correction_turns_the_order_of_outputs_around():
    # The new class reads high exactly where the old one is right.
    logits = torch.tensor([[0.0, 3.0], [0.0, 5.0], [0.0, -3.0], [0.0, -5.0]])
    alpha, beta = fitted(logits, torch.tensor([0, 0, 1, 1]), torch.tensor([False, True]))
    assert alpha == LEAST
    assert abs(beta) < 0.1


def test_what_is_applied_to_a_head_without_biases_is_what_was_fitted():
    def net():
        return Classifier(MLP(3, hidden=(5,)), nn.Linear(5, 4, bias=False))

    learner = learner_of(bic := BiC(60, validation=0.4), net)
    learn(learner, 0, batches_of(8, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    batches = batches_of(12, classes=(2, 3), task=1)
    for batch in batches:
        learner.observe(batch)
    rows = bic.aside.all()
    logits = learner.predict(rows["x"])
    corrected = torch.tensor([False, False, True, True])
    alpha, _ = fitted(logits, rows["y"], corrected, shift=False)
    learner.end_task(batches)
    expected = torch.where(corrected, logits * alpha, logits)
    torch.testing.assert_close(learner.predict(rows["x"]), expected)


def test_no_rows_that_contradict_leave_the_correction_finite():
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    alpha, beta = fitted(logits, torch.tensor([0, 1]), torch.tensor([False, True]))
    assert 1 < alpha < 20
    assert abs(beta) < 20


def test_the_correction_is_folded_into_the_head_of_the_new_classes():
    learner = learner_of(bic := BiC(60, validation=0.4), growing)
    learn(learner, 0, batches_of(8, classes=(0, 1)), (0, 1))
    learner.begin_task(TaskSpec(1, (2, 3)))
    batches = batches_of(12, classes=(2, 3), task=1)
    for batch in batches:
        learner.observe(batch)
    rows, before = bic.aside.all(), copied(learner.parameters)
    logits, x = learner.predict(rows["x"]), torch.randn(5, 3)
    assert set(rows["y"].tolist()) == {0, 1, 2, 3}
    was = learner.predict(x)
    learner.end_task(batches)
    corrected = torch.tensor([False, False, True, True])
    alpha, beta = fitted(logits, rows["y"], corrected)
    assert abs(alpha - 1) + abs(beta) > 0.01
    torch.testing.assert_close(learner.predict(x), torch.where(corrected, was * alpha + beta, was))
    moved = {n for n, value in before.items() if not torch.equal(value, learner.parameters[n])}
    assert moved == {"head.blocks.1.weight", "head.blocks.1.bias"}
    now = F.cross_entropy(learner.predict(rows["x"]), rows["y"])
    assert now < F.cross_entropy(logits, rows["y"])


def test_a_row_is_either_learned_or_held_out_in_every_pass():
    learner = learner_of([bic := BiC(400, validation=0.3), seen := Capture()])
    batches = batches_of(20)
    for _ in range(3):
        for batch in batches:
            learner.observe(batch)
    learned = set(bic.memory.all()["key"].tolist())
    out = set(bic.aside.all()["key"].tolist())
    assert learned
    assert out
    assert not learned & out
    assert len(learned | out) == 120
    for batch in seen.batches:
        weighed = {int(k) for k, w in zip(batch.key, batch.weight, strict=True) if w == 0}
        assert weighed <= out
        assert not out & {int(k) for k in batch.key[batch.new :]}


def test_rows_without_ids_are_held_out_by_chance():
    learner = learner_of(bic := BiC(400, validation=0.25))
    for batch in batches_of(30, rows=20):
        learner.observe(Batch.of(batch.x, batch.y))
    assert 0.15 < bic.aside.seen / 600 < 0.35


def test_the_first_task_and_tasks_without_new_classes_are_not_corrected():
    learner = learner_of(BiC(60, validation=0.4))
    for task in (0, 1):
        learner.begin_task(task)
        batches = batches_of(4, task=task)
        for batch in batches:
            learner.observe(batch)
        before = copied(learner.parameters)
        learner.end_task(batches)
        assert all(torch.equal(value, learner.parameters[n]) for n, value in before.items())


def test_both_memories_can_lie_in_files(tmp_path):
    learner = learner_of(bic := BiC(20, path=tmp_path / "rows"))
    for batch in batches_of(4):
        learner.observe(batch)
    assert len(bic.memory) == 18
    assert (tmp_path / "rows" / "aside").is_dir()


@pytest.mark.parametrize("settings", [{"validation": 0.0}, {"validation": 1.0}, {"capacity": 1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="at least one row to learn from"):
        BiC(**settings)


def test_the_capacity_is_what_both_memories_were_given():
    assert BiC(60, validation=0.25).capacity == 60
    bic = BiC("1MB", validation=0.3)
    assert bic.capacity == "1000000B"
    assert repr(bic) == "BiC(capacity='1000000B', validation=0.3)"
    learn(learner_of(bic), 0, batches_of(3))
    assert bic.capacity == "1000000B"


def test_bytes_are_shared_by_both_memories():
    bic = BiC("2KB", validation=0.25, store="fp16")
    learner = learner_of(bic)
    for batch in batches_of(60):
        learner.observe(batch)
    learner.consolidate(batches_of(2))
    row = 3 * 2 + 3 * 8
    assert len(bic.memory) == bic.memory.capacity == 1500 // row
    assert len(bic.aside) == bic.aside.capacity == 500 // row
    small = learner_of(BiC("800B"))
    small.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    with pytest.raises(BudgetTooSmall, match="4 classes"):
        small.observe(batches_of(1)[0])
    assert small.batches == 0


@pytest.mark.parametrize("y", [torch.ones(6), torch.ones(6, 4), torch.ones(6, 4).long()])
def test_labels_that_are_no_classes_are_refused_in_the_first_step(y):
    learner = learner_of(BiC(20, policy="reservoir"), loss=lambda out, y: out.square().mean(1))
    batch = Batch.of(torch.randn(6, 3), y, 0, torch.arange(6))
    before = copied(learner.parameters)
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="no class"):
        learner.observe(batch)
    with pytest.raises(InvalidBatch, match="no class"):
        learner.end_task([batch])
    assert learner.steps == 0
    expect_close(copied(learner.parameters), before, 0.0)


def cosine() -> nn.Module:
    return Classifier(MLP(3, hidden=(5,)), CosineHead(5))


@pytest.mark.parametrize(
    ("model", "told"),
    [(cosine, "without linear weights"), (Headless, "name its last layer `head`")],
)
def test_a_head_that_cannot_be_corrected_is_refused_in_the_first_step(model, told):
    learner = learner_of(BiC(20), model)
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    expect_refused(learner, batches_of(1)[0], told)


def test_outputs_in_a_dict_are_refused_in_the_first_step():
    class Dict(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    learner = learner_of(BiC(20), lambda: Dict(3, 4), loss=lambda out, y: out["logits"][:, 0])
    expect_refused(learner, batches_of(1)[0], "outputs in a dict", InvalidBatch)
