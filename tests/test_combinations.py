"""Strategies beside each other, by name: they learn, resume to the bit and stay within bounds."""

import io

import pytest
import torch
from torch import nn

from lifelong import (
    DER,
    DGR,
    EEIL,
    ERACE,
    EWC,
    GEM,
    MAS,
    MIR,
    OGD,
    SI,
    Adaptive,
    ClassBalanced,
    ClassRatio,
    DERpp,
    FeatureDistillation,
    Feedback,
    GDumb,
    ICaRL,
    LwF,
    MeanTeacher,
    PerTask,
    PooledDistillation,
    Replay,
    Rising,
    Sleep,
)
from lifelong.bench.hybrids import HYBRIDS
from lifelong.bench.recipes import make
from lifelong.checks import CHECKS, on_device
from lifelong.checks.settings import (
    HIDDEN,
    INPUTS,
    SETTINGS,
    Setting,
    events_of,
    play,
    small_tasks,
)
from lifelong.checks.states import difference
from lifelong.core.strategy import Strategy
from lifelong.memory import Memory
from lifelong.nets import Classifier, GrowingHead, NearestMeanHead

SMALL = {"capacity": 100}
SETTINGS_OF = {"replay": SMALL, "der++": SMALL, "sleep": {**SMALL, "steps": 20, "rows": 16}}


def sleeping_on_replay() -> list[Strategy]:
    replay = Replay(100)
    return [Sleep(steps=10, rows=16, memory=replay.memory), replay]


COMBINATIONS = {
    **{name: (lambda name=name: make(name, SETTINGS_OF)) for name in HYBRIDS},
    "ewc+lwf+replay": lambda: [EWC(10.0), LwF(0.5), Replay(100)],
    "mas+features+der": lambda: [MAS(0.05), FeatureDistillation(0.5), DER(100)],
    "si+pooled+replay": lambda: [SI(0.1), PooledDistillation(0.5), Replay(100, policy="ring")],
    "steered ewc+replay": lambda: [
        Adaptive(EWC(10.0), feedback=Feedback(share=0.1, every=4)),
        Replay(100),
    ],
    "growing lwf+der++": lambda: [Adaptive(LwF(0.3), schedule=ClassRatio()), DERpp(100)],
    "rising features+mean teacher+replay": lambda: [
        Adaptive(FeatureDistillation(1.0), schedule=Rising(over=20)),
        MeanTeacher(0.1, decay=0.9),
        Replay(100, policy="balanced"),
    ],
    "steered der by tasks": lambda: [
        Adaptive(DER(100, strength=0.3), schedule=PerTask(0.5), feedback=Feedback(share=0.1))
    ],
    "sleep on replay": sleeping_on_replay,
    "pruning sleep+ewc+lwf": lambda: [
        Sleep(100, steps=20, rows=16, prune=0.3),
        EWC(1.0),
        LwF(0.3),
    ],
}


def test_there_are_enough_of_them():
    assert len(COMBINATIONS) >= 15


@pytest.mark.parametrize("name", COMBINATIONS)
def test_it_forgets_less_than_plain_training(name, device):
    CHECKS["beats_naive"](on_device(COMBINATIONS[name], device))


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("setting", [SETTINGS[2], SETTINGS[3]], ids=lambda setting: setting.name)
def test_it_resumes_bit_for_bit_in_the_middle_of_a_task(name, setting, device):
    make = on_device(COMBINATIONS[name], device)
    events = events_of(small_tasks())
    straight = play(setting.learner(make), events)
    stopped, file = play(setting.learner(make), events[:9]), io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = setting.learner(make, seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    play(resumed, events[9:])
    assert difference(resumed.state_dict(), straight.state_dict()) is None


@pytest.mark.parametrize("name", COMBINATIONS)
def test_its_invariants_hold(name, device):
    """No memory overflows, no trace of erased rows, and nothing is left behind on the model."""
    make = on_device(COMBINATIONS[name], device)
    CHECKS["forgets_rows"](make)
    learner = SETTINGS[2].learner(make)
    for event in events_of(small_tasks(batches=6, rows=16)):
        event(learner)
        for memory in memories(learner.strategies):
            assert len(memory) <= memory.capacity
        assert all(p.grad is None for p in learner.model.parameters())
        assert all(p.isfinite().all() for p in learner.model.parameters())
        modules = list(learner.model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        assert all(m.training for m in modules)


def normed() -> nn.Module:
    """A backbone with batch norm, and a head that predicts by class means where it is given any."""
    backbone = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU())
    return Classifier(backbone, NearestMeanHead(GrowingHead(HIDDEN)))


SMALL_ONES = {
    "features+mir": lambda: [FeatureDistillation(1.0), MIR(24, rows=4)],
    "pooled+mir": lambda: [PooledDistillation(1.0), MIR(24, rows=4)],
    "er-ace+class-balanced": lambda: [ERACE(24), ClassBalanced()],
    "icarl+lwf": lambda: [ICaRL(24), LwF()],
    "gem+si": lambda: [GEM(24), SI()],
    "dgr+ewc": lambda: [DGR(width=16, strict=False), EWC(10.0)],
    "er-ace+dgr": lambda: [ERACE(24), DGR(width=16, strict=False)],
    "gdumb": lambda: [GDumb(24, epochs=1)],
    "eeil+sleep": lambda: [EEIL(24, epochs=1), Sleep(24, steps=3)],
    "ogd+mean teacher+replay": lambda: [MeanTeacher(), Replay(24), OGD(20)],
}


@pytest.mark.parametrize("name", SMALL_ONES)
def test_with_batch_norm_and_class_means_it_resumes_and_leaves_nothing_behind(name):
    setting = Setting("batch norm", normed)
    events = events_of(small_tasks())
    straight = setting.learner(SMALL_ONES[name])
    for event in events:
        event(straight)
        modules = list(straight.model.modules())
        assert all(m.training for m in modules)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        assert all(p.isfinite().all() for p in straight.model.parameters())
    stopped = play(setting.learner(SMALL_ONES[name]), events[:9])
    resumed = setting.learner(SMALL_ONES[name], seed=1)
    resumed.load_state_dict(stopped.state_dict())
    play(resumed, events[9:])
    assert difference(resumed.state_dict(), straight.state_dict()) is None


def memories(strategies):
    for strategy in strategies:
        for part in vars(strategy).values():
            if isinstance(part, Memory):
                yield part
            elif isinstance(part, Strategy):
                yield from memories([part])
            elif isinstance(part, Feedback):
                yield part.held
