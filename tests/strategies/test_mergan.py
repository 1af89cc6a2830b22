from dataclasses import replace

import pytest
import torch
from strategy_models import Capture, batches_of, learn, learner_of, mlp, multi_head
from torch.nn import functional as F

from lifelong import Batch, MeRGAN, TaskSpec
from lifelong.core.errors import InvalidBatch


def small(**settings):
    return MeRGAN(**{"width": 8, "strict": False, **settings})


def test_classes_are_asked_for_as_often_as_they_came_each_task_alike():
    mergan, seen = small(rows=4000), Capture()
    learner = learner_of([mergan, seen])
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    learn(learner, 0, [Batch.of(x, torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]))])
    learn(learner, 1, [Batch.of(x[:4], torch.tensor([3, 3, 1, 1]), 1)])
    assert mergan.scholar.model == {}  # no teacher is needed
    assert mergan.share == [0.375, 0.375, 0.0, 0.25]
    learner.begin_task(2)
    learner.observe(batches_of(1, task=2)[0])
    y = seen.batches[-1].y[6:]
    torch.testing.assert_close(y.bincount() / 4000, torch.tensor(mergan.share), atol=0.03, rtol=0)


def test_the_task_of_a_made_row_is_that_of_its_class():
    mergan, seen = small(rows=50), Capture()
    learner = learner_of([mergan, seen], multi_head)
    learn(learner, 5, batches_of(2, classes=(0, 1), task=5), (0, 1))
    learn(learner, 7, batches_of(2, classes=(2, 3), task=7), (2, 3))
    learner.begin_task(TaskSpec(9, (4, 5)))
    learner.observe(batches_of(1, classes=(4, 5), task=9)[0])
    made = seen.batches[-1].rows(slice(6, None))
    assert torch.equal(made.task, 5 + 2 * (made.y // 2))


@pytest.mark.parametrize("replay", ["joint", "alignment"])
def test_what_the_gan_learns_from(replay):
    mergan, seen, calls = small(replay=replay, strength=3.0), Capture(), []
    learner = learner_of([mergan, seen])
    learn(learner, 0, batches_of(2))
    learn(learner, 1, batches_of(2, task=1))
    mergan.apprentice.learn = lambda x, y, weight, chance, more=None: calls.append(
        (x, y, weight, more)
    )
    learner.begin_task(2)
    learner.observe(batches_of(1, task=2)[0])
    [(x, y, weight, more)] = calls
    batch = seen.batches[-1]
    if replay == "joint":
        assert torch.equal(x, batch.x)
        assert torch.equal(y, batch.y)
        assert weight.tolist() == [1.0] * 6 + [2.0] * 6
        assert more is None
        return
    assert torch.equal(x, batch.x[:6])
    assert weight.tolist() == [1.0] * 6
    chance = mergan.generator.get_state()
    found = more(mergan.apprentice.net)
    z = torch.randn(6, 100, generator=torch.Generator().set_state(chance))
    past = mergan.scholar.generator(mergan.apprentice)
    with torch.no_grad():
        apart = mergan.apprentice.net.make(z, batch.y[6:]) - past.make(z, batch.y[6:])
    torch.testing.assert_close(found, 3.0 * F.mse_loss(apart, torch.zeros_like(apart)))
    assert found.requires_grad


def test_labels_that_are_no_classes_are_refused():
    learner = learner_of(small())
    with pytest.raises(InvalidBatch, match=r"y is torch.float32; MeRGAN makes rows of classes"):
        learner.observe(Batch.of(torch.zeros(2, 3), torch.zeros(2)))


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="replay is 'both'"):
        MeRGAN("both")
    with pytest.raises(ValueError, match="strength is -1"):
        MeRGAN(strength=-1)


def test_a_model_of_float64_learns_too():
    learner = learner_of(small(), lambda: mlp().double())
    for task in range(3):
        batches = [replace(b, x=b.x.double()) for b in batches_of(3, task=task)]
        learn(learner, task, batches)
    assert learner.steps == 9
