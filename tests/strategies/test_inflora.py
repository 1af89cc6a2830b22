from dataclasses import replace

import pytest
import torch
from lora_checks import NAMES, check_with_replay
from strategy_models import batches_of, growing, learn, learner_of
from torch.optim import Adam

from lifelong import InfLoRA, TaskSpec
from lifelong.checks.states import difference
from lifelong.core.errors import NothingLeftToLearn, StateMismatch
from lifelong.core.features import tapped
from lifelong.nets import (
    MLP,
    Classifier,
    GrowingHead,
    LoRA,
    adapter_state,
    add_lora,
    load_adapter_state,
)


def flat(count, task):
    """Batches whose inputs lie in a plane of 6 dimensions, a plane of its own for each task."""
    made = batches_of(count, task=task)
    for batch in made:
        plane = torch.zeros(6, 6)
        plane[2 * task, 0] = plane[2 * task + 1, 1] = 1
        x = torch.cat((batch.x, batch.x), 1) @ plane.T
        yield replace(batch, x=x)


def wide():
    return add_lora(Classifier(MLP(6, hidden=(5,)), GrowingHead(5)), rank=2, sets="summed")


@pytest.mark.parametrize("optimizer", [None, Adam])
def test_features_of_past_rows_stay_while_those_of_new_ones_are_learned(optimizer):
    options = {} if optimizer is None else {"optimizer": optimizer}
    learner = learner_of(InfLoRA(1.0), wide, **options)
    past, new = list(flat(8, 0)), list(flat(8, 1))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    for batch in past:
        learner.observe(batch)
    learner.end_task(past)
    before = [features(learner, batches) for batches in (past, new)]
    learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
    for batch in 3 * new:
        learner.observe(batch)
    after = [features(learner, batches) for batches in (past, new)]
    torch.testing.assert_close(after[0], before[0], atol=1e-5, rtol=0)
    assert not torch.allclose(after[1], before[1], atol=1e-2)


def features(learner, batches):
    with tapped(learner.model) as tap:
        learner.predict(torch.cat([batch.x for batch in batches]))
    return tap.features.clone()


def test_the_basis_spans_the_inputs_and_the_newest_set_sees_none_of_them():
    learner = learner_of(InfLoRA(1.0), wide)
    past = list(flat(4, 0))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    learner.end_task(past)
    (basis,) = learner.strategies[0].basis.values()
    torch.testing.assert_close(basis @ basis.T, torch.diag(torch.tensor([1.0, 1, 0, 0, 0, 0])))
    learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
    learner.observe(next(flat(1, 1)))
    (layer,) = [m for m in learner.model.modules() if isinstance(m, LoRA)]
    down = layer.pairs["1"].down.weight.detach()
    assert float((down @ basis).abs().max()) < 1e-6
    assert float(down.norm()) > 0.1


def test_the_step_that_is_left_over_sees_no_past_inputs():
    learner = learner_of(InfLoRA(1.0), wide, lr=1.0, accumulate=2)
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    learner.end_task(list(flat(4, 0)))
    (basis,) = learner.strategies[0].basis.values()
    learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
    mixed = [replace(b, x=b.x + a.x) for a, b in zip(flat(3, 0), flat(3, 1), strict=True)]
    for batch in mixed:
        learner.observe(batch)
    learner.end_task(mixed)
    assert float((down_of(learner) @ basis).abs().max()) < 1e-6


def down_of(learner):
    (layer,) = [m for m in learner.model.modules() if isinstance(m, LoRA)]
    return [*layer.pairs.values()][-1].down.weight.detach()


def test_the_set_of_the_open_task_sees_none_of_them_while_another_is_loaded():
    learner = learner_of(InfLoRA(1.0), wide)
    learn(learner, 0, list(flat(4, 0)), (0, 1, 2, 3))
    (basis,) = learner.strategies[0].basis.values()
    learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
    load_adapter_state(learner.model, adapter_state(learner.model, 0), 2)
    for a, b in zip(flat(3, 0), flat(3, 1), strict=True):
        learner.observe(replace(b, x=b.x + a.x))
    (layer,) = [m for m in learner.model.modules() if isinstance(m, LoRA)]
    down = layer.pairs["1"].down.weight.detach()
    assert float((down @ basis).abs().max()) < 1e-6


@pytest.mark.parametrize("again", [False, True])
def test_what_a_set_learns_from_is_not_taken_from_it(again):
    learner = learner_of(InfLoRA(1.0), wide)
    past, new = list(flat(8, 0)), list(flat(8, 1))
    learn(learner, 0, past, (0, 1, 2, 3))
    learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
    for batch in new:
        learner.observe(batch)
    before = [features(learner, past), features(learner, new)]
    for _ in range(2):
        learner.consolidate(new)
        if again:
            learner.end_task(new)
            learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
        learner.observe(new[0])
    (basis,) = learner.strategies[0].basis.values()
    assert basis.shape[1] == 4
    assert float((down_of(learner) @ basis[:, :2]).abs().max()) < 1e-6
    assert float((down_of(learner) @ basis[:, 2:]).norm()) > 0.1
    torch.testing.assert_close(features(learner, past), before[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(features(learner, new), before[1], atol=0.1, rtol=0)
    learner.end_task(new)
    learner.begin_task(TaskSpec(2, (0, 1, 2, 3)))
    learner.observe(next(flat(1, 2)))
    assert float((down_of(learner) @ basis).abs().max()) < 1e-6


def test_rows_that_are_looked_at_are_drawn_from_the_whole_task():
    learner = learner_of(InfLoRA(1.0, rows=24), wide)
    sorted_by_plane = [*flat(4, 0), *flat(4, 1)]
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    learner.end_task(sorted_by_plane)
    (basis,) = learner.strategies[0].basis.values()
    assert basis.shape[1] == 4  # both planes, which the first batches alone would not show


def test_where_past_inputs_leave_no_direction_it_says_so():
    learner = learner_of(InfLoRA(1.0), wide)
    past, new = [batch for task in range(3) for batch in flat(4, task)], next(flat(1, 1))
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    learner.observe(new)
    learner.consolidate(past)
    learner.observe(new)  # they are its own
    learner.end_task(past)
    learner.begin_task(TaskSpec(1, (0, 1, 2, 3)))
    before = down_of(learner).clone()
    with pytest.raises(NothingLeftToLearn, match=r"fill every layer .* lower threshold than 1.0"):
        learner.observe(new)
    assert torch.equal(down_of(learner), before)
    assert learner.steps == 2


LAYER = "backbone.layers.0"


@pytest.mark.parametrize(
    ("part", "damaged", "told"),
    [
        ("before", {}, r"of the layers \[.*, \[\]\], and must be of the same; the state"),
        ("newest", {"head": "0"}, r"of the layers .*, \['head'\], .* must be of the same"),
        ("basis", {}, "must be of the same"),
        ("before", None, r"of the layers .*, None\], and must"),
        ("basis", {LAYER: torch.zeros(6)}, r"of backbone.* a basis of shape \(6,\), 0 direct"),
        ("basis", {LAYER: torch.zeros(6, 2).long()}, r"a basis of shape \(6, 2\)"),
        ("basis", {LAYER: None}, "a basis of shape None"),
        ("before", {LAYER: 3}, r"shape \(6, 2\), 3 directions before those of the set '0'; the st"),
        ("before", {LAYER: -1}, "-1 directions before"),
        ("before", {LAYER: "0"}, "'0' directions before"),
        ("newest", {LAYER: 0}, "those of the set 0; the state is damaged, load another"),
    ],
)
def test_a_state_that_does_not_fit_together_is_refused_and_changes_nothing(part, damaged, told):
    saved, learner = learner_of(InfLoRA(1.0), wide), learner_of(InfLoRA(1.0), wide)
    learn(saved, 0, list(flat(4, 0)), (0, 1, 2, 3))
    state = saved.state_dict()
    state["strategies"][0]["state"][part] = damaged
    before = learner.state_dict()
    with pytest.raises(StateMismatch, match=told):
        learner.load_state_dict(state)
    assert difference(before, learner.state_dict()) is None
    learner.load_state_dict(saved.state_dict())
    assert difference(saved.state_dict(), learner.state_dict()) is None


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="threshold is 0"):
        InfLoRA(0)
    with pytest.raises(ValueError, match="rows is 0"):
        InfLoRA(rows=0)
    for model in (growing, lambda: add_lora(growing(), rank=2)):
        learner = learner_of(InfLoRA(), model)
        learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
        with pytest.raises(ValueError, match="no summed LoRA"):
            learner.observe(batches_of(1)[0])
        assert learner.steps == 0


@pytest.mark.parametrize("check", NAMES)
def test_it_keeps_every_promise_with_replay(check, monkeypatch):
    check_with_replay(monkeypatch, check, lambda: InfLoRA(0.7))
