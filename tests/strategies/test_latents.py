from dataclasses import replace

import pytest
import torch
from strategy_models import Capture, batches_of, learn, learner_of
from torch import nn

from lifelong import DER, Adaptive, DERpp, Exemplars, ICaRL, Latents, PerTask, Replay, Strategy
from lifelong.checks import CHECKS, forgetting, keeping, learning
from lifelong.checks.settings import CLASSES, HIDDEN, INPUTS, Setting
from lifelong.nets import MLP, Classifier, GrowingHead, LatentModel


def latent_model():
    return LatentModel(nn.Sequential(nn.Linear(3, 6), nn.Tanh()), MLP(6, hidden=(5,), outputs=4))


def test_the_memory_keeps_latents_and_learning_goes_as_with_rows():
    latent, raw = (
        learner_of([Latents(), Replay(20)], latent_model),
        learner_of([Strategy(), Replay(20)], latent_model),
    )
    for batch in batches_of(9):
        assert torch.allclose(latent.observe(batch), raw.observe(batch), atol=1e-6)
    held, rows = latent.strategies[1].memory.all(), raw.strategies[1].memory.all()
    assert torch.equal(held["key"], rows["key"])
    torch.testing.assert_close(held["x/latent"], latent.model.trunk(rows["x"]))
    x = batches_of(1)[0].x
    torch.testing.assert_close(latent.predict(x), raw.predict(x))


def test_the_trunk_sees_each_new_row_once():
    seen, counted = Capture(), []
    learner = learner_of([Latents(), Replay(20), seen], latent_model)
    learner.model.trunk.register_forward_hook(lambda module, x, y: counted.append(len(y)))
    for batch in batches_of(5):
        learner.observe(batch)
    assert counted == [6] * 5
    assert [len(batch) for batch in seen.batches] == [6, 12, 12, 12, 12]
    assert seen.batches[-1].x.keys() == {"latent"}


def test_a_model_without_a_trunk_is_refused():
    learner = learner_of(Latents())
    with pytest.raises(ValueError, match="MLP, which has no trunk"):
        learn(learner, 0, batches_of(1))


FROM_TASK = {
    "replay": lambda: Replay(20, fill="task"),
    "der": lambda: DER(20, fill="task"),
    "adaptive der": lambda: Adaptive(DER(20, fill="task"), schedule=PerTask()),
    "icarl": lambda: ICaRL(20),
    "exemplars": lambda: Exemplars(20),
}


@pytest.mark.parametrize("name", FROM_TASK)
def test_what_takes_its_rows_from_the_task_is_refused_behind_and_learns_before(name):
    behind = learner_of([Latents(), FROM_TASK[name]()], latent_model)
    with pytest.raises(ValueError, match="put it before Latents in the list"):
        behind.observe(batches_of(1)[0])
    assert behind.steps == 0
    before = learner_of([FROM_TASK[name](), Latents()], latent_model)
    for task, classes in enumerate([(0, 1), (2, 3)]):
        learn(before, task, batches_of(3, classes=classes, task=task), classes)
    assert before.steps == 6


def plain() -> nn.Module:
    return LatentModel(nn.Linear(INPUTS, INPUTS), MLP(INPUTS, hidden=(HIDDEN,), outputs=CLASSES))


def growing() -> nn.Module:
    rest = Classifier(MLP(INPUTS, hidden=(HIDDEN,)), GrowingHead(HIDDEN))
    return LatentModel(nn.Linear(INPUTS, INPUTS), rest)


ALONE, GROWING = Setting("alone", plain), Setting("growing head", growing, adam=True)
SETTINGS = (ALONE, GROWING, replace(ALONE, precision="bf16"), replace(GROWING, accumulate=2))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_replay_of_latents_keeps_every_promise(check, monkeypatch):
    for module in (keeping, learning, forgetting):
        for name, setting in (("ALONE", ALONE), ("GROWING", GROWING), ("SETTINGS", SETTINGS)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, setting)
    check(lambda: [Latents(), Replay(100), DERpp(24, store="int8")])
