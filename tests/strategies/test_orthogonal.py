import pytest
import torch
from lora_checks import NAMES, check_with_replay
from strategy_models import batches_of, growing, learner_of
from torch import nn

from lifelong import Batch, Orthogonal, TaskSpec
from lifelong.nets import (
    Classifier,
    LoRA,
    Prompted,
    Transformer,
    adapter_state,
    add_lora,
    load_adapter_state,
)


def summed():
    return add_lora(growing(), rank=2, sets="summed")


def layers_of(learner):
    return [m for m in learner.model.modules() if isinstance(m, LoRA)]


def test_the_penalty_is_the_squared_overlap_with_all_earlier_sets():
    learner = learner_of(Orthogonal(2.0), summed)
    for task in range(3):
        learner.begin_task(TaskSpec(task, (task,)))
        learner.end_task(batches_of(1))
    learner.begin_task(TaskSpec(3, (3,)))
    told = 0.0
    for layer in layers_of(learner):
        *old, new = [pair.down.weight for pair in layer.pairs.values()]
        told = told + sum((weight @ new.T).square().sum() for weight in old)
    found = learner.strategies[0].penalty(learner, batches_of(1)[0], None)
    torch.testing.assert_close(found, 2.0 * told)
    assert float(found.detach()) > 0


def test_a_set_that_is_loaded_meanwhile_has_no_part_in_it():
    learner = learner_of(Orthogonal(), summed)
    for task in range(2):
        learner.begin_task(TaskSpec(task, (task,)))
        learner.end_task(batches_of(1))
    before = learner.strategies[0].penalty(learner, batches_of(1)[0], None)
    load_adapter_state(learner.model, adapter_state(learner.model, 0), 2)
    assert torch.equal(learner.strategies[0].penalty(learner, batches_of(1)[0], None), before)
    learner.begin_task(TaskSpec(2, (2,)))
    assert learner.strategies[0].penalty(learner, batches_of(1)[0], None) > before


def test_sets_become_orthogonal_where_they_would_not():
    overlaps = []
    for strength in (0.0, 5.0):
        learner = learner_of(Orthogonal(strength), summed)
        for task in range(2):
            learner.begin_task(TaskSpec(task, (0, 1, 2, 3)))
            for batch in 10 * batches_of(3):
                learner.observe(batch)
            learner.end_task(batches_of(1))
        overlaps.append(sum(float(layer.overlap().detach()) for layer in layers_of(learner)))
    assert overlaps[1] < overlaps[0] / 100


def test_a_model_in_which_nothing_can_overlap_is_refused():
    with pytest.raises(ValueError, match=r'MLP can overlap; make it with add_lora.*"summed"'):
        learn_one(learner_of(Orthogonal()))
    shared = learner_of(Orthogonal(), lambda: add_lora(growing(), rank=2))
    with pytest.raises(ValueError, match="sets='shared', and only summed ones overlap"):
        learn_one(shared)
    with pytest.raises(ValueError, match="strength is -1"):
        Orthogonal(-1)


def test_before_any_task_prompts_and_sets_overlap_nowhere():
    def prompted():
        net = Transformer(tokens=9, width=8, heads=2)
        return Classifier(Prompted(net, components=2, length=2), nn.Linear(8, 2))

    for model in (prompted, summed):
        learner = learner_of(Orthogonal(), model)
        assert learner.strategies[0].penalty(learner, batches_of(1)[0], None) == 0
    tokens = Batch.of(torch.randint(9, (4, 3)), torch.tensor([0, 1, 0, 1]))
    learner = learner_of(Orthogonal(), prompted)
    assert learner.observe(tokens).isfinite()


def learn_one(learner):
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    learner.observe(batches_of(1)[0])


@pytest.mark.parametrize("check", NAMES)
def test_it_keeps_every_promise_with_replay(check, monkeypatch):
    check_with_replay(monkeypatch, check, lambda: Orthogonal(0.1))
