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
    row_gradients,
)

from lifelong import MAS
from lifelong.strategies.sample import sampled


def sensitivity(learner, batches):
    return mean_of(row_gradients(learner, batches, lambda output, row: output.square().sum()), 1)


def test_importance_adds_up_how_the_squared_length_of_each_output_answers():
    mas = MAS(0.3)
    learner = learner_of(mas)
    expected = {name: torch.zeros_like(p) for name, p in learner.parameters.items()}
    for task in range(2):
        batches = batches_of(3, task=task)
        learn(learner, task, batches)
        new = sensitivity(learner, batches)
        expected = {name: held + new[name] for name, held in expected.items()}
        expect_close(mas.importance, expected, 1e-4)
        expect_close(mas.anchor, copied(learner.parameters))


def test_the_penalty_has_no_factor_of_one_half():
    plain, mas, seen = Capture(), MAS(0.3), Capture()
    learner = learner_of([plain, mas, seen])
    learn(learner, 0, batches_of(3))
    learner.begin_task(1)
    for batch in batches_of(2, task=1):
        weights = copied(learner.parameters)
        learner.observe(batch)
        for name, weight in weights.items():
            weight.requires_grad_()
            penalty = 0.3 * (mas.importance[name] * (weight - mas.anchor[name]) ** 2).sum()
            (pull,) = torch.autograd.grad(penalty, weight)
            torch.testing.assert_close(seen.gradients[-1][name], plain.gradients[-1][name] + pull)


def test_labels_are_not_used():
    found = []
    for shift in (0, 1):
        mas = MAS(1.0)
        learner = learner_of(mas)
        learner.begin_task(0)
        learner.end_task([type(b).of(b.x, (b.y + shift) % 4) for b in batches_of(2)])
        found.append(mas.importance)
    expect_close(*found)


def test_it_measures_as_many_rows_as_asked():
    mas, batches = MAS(1.0, rows=5), batches_of(3)
    learner = learner_of(mas)
    chance = torch.Generator()
    chance.set_state(mas.generator.get_state())
    learn(learner, 0, batches)
    drawn = list(sampled(batches, 5, chance))
    expect_close(mas.importance, sensitivity(learner, drawn), 1e-4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"strength": -1.0}, "strength is -1.0"), ({"rows": 0}, "rows is 0")],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        MAS(**settings)
