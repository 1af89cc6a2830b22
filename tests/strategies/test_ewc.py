import math

import pytest
import torch
from strategy_models import (
    Capture,
    batches_of,
    copied,
    expect_close,
    learn,
    learner_of,
    mean_of,
    multi_head,
    row_gradients,
)
from torch.nn import functional as F

from lifelong import EWC
from lifelong.strategies.sample import sampled

CLASSES = {0: (0, 1), 1: (1, 2), 2: (2, 3)}


def log_likelihood(output, row):
    return -F.cross_entropy(output, row.y)


def empirical(learner, batches):
    return mean_of(row_gradients(learner, batches, log_likelihood), 2)


def true(learner, batches):
    """sum_c p(c | x) * (d log p(c | x))**2, averaged over the rows."""
    total = {name: torch.zeros_like(p) for name, p in learner.parameters.items()}
    rows = [batch.rows(slice(i, i + 1)) for batch in batches for i in range(len(batch))]
    for row in rows:
        p = learner.output(row).softmax(1)[0].detach()
        for c in range(len(p)):
            value = F.log_softmax(learner.output(row), 1)[0, c]
            grads = torch.autograd.grad(value, list(learner.parameters.values()))
            for name, grad in zip(learner.parameters, grads, strict=True):
                total[name] += p[c] * grad**2 / len(rows)
    return total


@pytest.mark.parametrize(("kind", "brute"), [("empirical", empirical), ("true", true)])
def test_importance_is_the_fisher_information_of_single_rows(kind, brute):
    ewc = EWC(1.0, fisher=kind)
    learner, batches = learner_of(ewc), batches_of(3)
    learn(learner, 0, batches)
    expect_close(ewc.importance, brute(learner, batches), 1e-4)
    expect_close(ewc.anchor, copied(learner.parameters))


def test_sampled_fisher_information_comes_close_to_the_true_one():
    ewc = EWC(1.0, fisher="sampled")
    learner, batches = learner_of(ewc), batches_of(40, rows=50)
    learner.begin_task(0)
    learner.end_task(batches)
    expected = true(learner, [batches[0]])
    total = sum(float(value.sum()) for value in ewc.importance.values())
    assert total == pytest.approx(sum(float(v.sum()) for v in expected.values()), rel=0.25)


def test_the_fisher_information_is_measured_on_as_many_rows_as_asked():
    ewc = EWC(1.0, rows=7)
    learner, batches = learner_of(ewc), batches_of(4)
    chance = torch.Generator()
    chance.set_state(ewc.generator.get_state())
    learn(learner, 0, batches)
    drawn = list(sampled(batches, 7, chance))
    assert sum(map(len, drawn)) == 7
    expect_close(ewc.importance, empirical(learner, drawn), 1e-4)


def test_one_spring_pulls_as_the_terms_of_all_tasks_do():
    ewc, seen = EWC(30.0), Capture()
    learner = learner_of([ewc, seen])
    terms = []
    for task, classes in CLASSES.items():
        batches = batches_of(4, classes=classes, task=task)
        learn(learner, task, batches)
        terms.append((empirical(learner, batches), copied(learner.parameters)))
    learner.begin_task(3)
    for batch in batches_of(3, task=3):
        loss = F.cross_entropy(learner.output(batch), batch.y)
        for importance, anchor in terms:
            for name, weight in learner.parameters.items():
                loss = loss + 15.0 * (importance[name] * (weight - anchor[name]) ** 2).sum()
        grads = torch.autograd.grad(loss, list(learner.parameters.values()))
        learner.observe(batch)
        expect_close(seen.gradients[-1], dict(zip(learner.parameters, grads, strict=True)))


def test_online_ewc_decays_importance_and_holds_to_the_last_weights():
    ewc = EWC(10.0, decay=0.6)
    learner = learner_of(ewc)
    expected = {name: torch.zeros_like(p) for name, p in learner.parameters.items()}
    for task, classes in CLASSES.items():
        batches = batches_of(3, classes=classes, task=task)
        learn(learner, task, batches)
        new = empirical(learner, batches)
        expected = {name: 0.6 * held + new[name] for name, held in expected.items()}
        expect_close(ewc.importance, expected, 1e-4)
        expect_close(ewc.anchor, copied(learner.parameters))


def test_weights_that_no_task_needed_follow_the_newest():
    ewc = EWC(1.0)
    learner = learner_of(ewc, multi_head)
    learn(learner, 0, batches_of(2, classes=(0, 1)), (0, 1))
    learn(learner, 1, batches_of(2, classes=(2, 3), task=1), (2, 3))
    block = "head.blocks.0.weight"
    assert all(anchor.isfinite().all() for anchor in ewc.anchor.values())
    assert torch.equal(ewc.anchor[block], learner.parameters[block])  # task 1 gave it no gradient


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": -2.0}, "strength is -2.0"),
        ({"strength": math.nan}, "strength is nan"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"decay": math.nan}, "decay is nan"),
        ({"fisher": "exact"}, "fisher is 'exact'"),
        ({"rows": 0}, "rows is 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        EWC(**settings)
