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
)

from lifelong import L2


def test_every_weight_is_pulled_alike_to_where_the_last_task_ended():
    pull, seen = L2(0.5), Capture()
    plain = Capture()
    learner = learner_of([plain, pull, seen], growing)
    for task, classes in enumerate(((0, 1), (2, 3))):
        learn(learner, task, batches_of(3, classes=classes, task=task), classes)
        assert pull.anchor.keys() == learner.parameters.keys()
        assert all(torch.equal(i, torch.ones_like(i)) for i in pull.importance.values())
        expect_close(pull.anchor, copied(learner.parameters))
    anchor = copied(learner.parameters)
    learner.begin_task(type(learner.tasks[0])(2, (0, 3)))
    for batch in batches_of(2, task=2):
        before = copied(learner.parameters)
        learner.observe(batch)
        expected = {
            name: plain.gradients[-1][name] + 0.5 * (before[name] - anchor[name]) for name in anchor
        }
        expect_close(seen.gradients[-1], expected)


def test_a_negative_strength_is_refused_by_name():
    with pytest.raises(ValueError, match=r"strength is -0\.1"):
        L2(-0.1)
