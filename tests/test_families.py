"""Methods of different families beside each other: they learn, and resume to the bit."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from lifelong import (
    EWC,
    HAT,
    MAS,
    SI,
    Analytic,
    DERpp,
    ExpertGate,
    InfLoRA,
    Latents,
    Learner,
    LwF,
    MeanTeacher,
    Orthogonal,
    PackNet,
    Replay,
)
from lifelong.checks.settings import HIDDEN, INPUTS, SmallTask, events_of, play, small_tasks
from lifelong.checks.states import difference
from lifelong.core.strategy import Strategy
from lifelong.nets import (
    MLP,
    Classifier,
    Experts,
    Gated,
    GrowingHead,
    LatentModel,
    LDAHead,
    MultiHead,
    Packed,
    Progressive,
    Prompted,
    RidgeHead,
    Supermasks,
    TaskClassifier,
    TaskHeads,
    Transformer,
    add_bottlenecks,
    add_lora,
)

LEARNED, ALL = 32, 40
"""How many batches of a task are learned, and how many there are: the others are tested on."""


@dataclass(frozen=True)
class Pair:
    """A network of one family and strategies of others.

    Attributes:
        least: how much of the tests must be right; by chance, a sixth is, or half of them where
            the task is told.
    """

    network: Callable[[], nn.Module]
    strategies: Callable[[], list[Strategy]]
    told: bool = False
    least: float = 0.6
    lr: float = 0.1
    adam: bool = False


def mlp():
    return Classifier(MLP(INPUTS, hidden=(HIDDEN,)), GrowingHead(HIDDEN))


def multi_head():
    return TaskClassifier(MLP(INPUTS, hidden=(HIDDEN,)), MultiHead(HIDDEN))


def task_heads(width=HIDDEN):
    return TaskClassifier(MLP(INPUTS, hidden=(width,)), TaskHeads(width))


def behind_a_trunk(head=None):
    trunk = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU())
    rest = Classifier(MLP(HIDDEN, hidden=(HIDDEN,)), head or GrowingHead(HIDDEN))
    return LatentModel(trunk, rest)


def prompted():
    """Rows of numbers as sequences of four places."""
    backbone = Transformer(inputs=2, width=32, heads=2, layers=1, length=4)
    net = Prompted(backbone, components=2, length=4)
    return Classifier(net, GrowingHead(32), front=nn.Unflatten(1, (4, 2)))


def warm(kind):
    return Classifier(MLP(INPUTS, hidden=(64,)), kind(64, logits=GrowingHead(64)))


TOLD = {"told": True, "least": 0.85}
COMBINATIONS = {
    "LoRA + EWC + replay": Pair(
        lambda: add_lora(mlp(), rank=4), lambda: [EWC(1.0), Replay(100)], lr=0.2
    ),
    "O-LoRA + DER++": Pair(
        lambda: add_lora(mlp(), rank=4, sets="summed"),
        lambda: [Orthogonal(0.1), DERpp(100)],
        lr=0.2,
    ),
    "InfLoRA + LwF + replay": Pair(
        lambda: add_lora(mlp(), rank=4, sets="summed"),
        lambda: [InfLoRA(0.9), LwF(0.1), Replay(100)],
        lr=0.2,
    ),
    "LoRA a task + multi-head + MAS": Pair(
        lambda: add_lora(multi_head(), rank=4, sets="task"), lambda: [MAS(0.1)], **TOLD
    ),
    "bottlenecks + DER++ + mean teacher": Pair(
        lambda: add_bottlenecks(mlp(), rank=16),
        lambda: [DERpp(100), MeanTeacher(0.1, decay=0.9)],
        lr=0.2,
    ),
    "bottlenecks a task + multi-head + SI": Pair(
        lambda: add_bottlenecks(multi_head(), rank=4, sets="task"), lambda: [SI(0.1)], **TOLD
    ),
    "prompts + replay": Pair(
        prompted, lambda: [Orthogonal(0.01), Replay(100)], least=0.5, lr=0.03, adam=True
    ),
    "PackNet + LwF": Pair(
        lambda: Packed(task_heads(64)), lambda: [PackNet(tasks=3), LwF(0.1)], **TOLD
    ),
    "PackNet + replay": Pair(
        lambda: Packed(task_heads(64)), lambda: [PackNet(tasks=3), Replay(50)], **TOLD
    ),
    "HAT + replay": Pair(
        lambda: Gated(MLP(INPUTS, hidden=(64,))),
        lambda: [HAT(steps=LEARNED), Replay(50)],
        **TOLD,
    ),
    "progressive + SI": Pair(
        lambda: Progressive(MLP(INPUTS, hidden=(HIDDEN,))), lambda: [SI(0.1)], **TOLD
    ),
    "supermasks + replay": Pair(
        lambda: Supermasks(task_heads(200)), lambda: [Replay(50)], **TOLD
    ),
    "experts + EWC": Pair(
        lambda: Experts(MLP(INPUTS, hidden=(HIDDEN,), outputs=6), inputs=INPUTS, limit=3, rank=2),
        lambda: [ExpertGate(), EWC(0.1)],
    ),
    "latent replay + EWC + LwF": Pair(
        behind_a_trunk, lambda: [Latents(), Replay(100), EWC(1.0), LwF(0.1)], lr=0.2
    ),
    "streaming LDA + EWC": Pair(lambda: warm(LDAHead), lambda: [Analytic(warm=True), EWC(1.0)]),
    "ridge head + latents' bottlenecks + replay": Pair(
        lambda: warm(lambda width, logits: RidgeHead(width, width=200, logits=logits)),
        lambda: [Analytic(warm=True), Replay(50)],
    ),
}  # fmt: skip


def learner_of(name, seed, device="cpu"):
    pair = COMBINATIONS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = pair.network()
    network.to(device)
    free = [p for p in network.parameters() if p.requires_grad]
    optimizer = Adam if pair.adam else SGD
    groups = [{"params": free}]
    return Learner(network, optimizer(groups, lr=pair.lr), pair.strategies(), seed=seed)


def tasks_of(seed):
    return small_tasks(batches=ALL, rows=16, seed=seed)


def events():
    return events_of([SmallTask(t.spec, t.batches[:LEARNED]) for t in tasks_of(0)])


def right(learner, told):
    found = [
        (learner.predict(b.x, t.spec.id if told else None).argmax(1).cpu() == b.y).float().mean()
        for t in tasks_of(0)
        for b in t.batches[LEARNED:]
    ]
    return float(torch.stack(found).mean())


def test_there_are_enough_of_them():
    assert len(COMBINATIONS) >= 15


@pytest.mark.parametrize("name", COMBINATIONS)
def test_it_learns_and_resumes_bit_for_bit_in_the_middle_of_a_task(name, device):
    calls, middle = events(), LEARNED + 2 + LEARNED // 2
    straight = play(learner_of(name, 0, device), calls)
    rounding = 0.0 if device == "cpu" else 0.05  # a GPU rounds otherwise
    assert right(straight, COMBINATIONS[name].told) >= COMBINATIONS[name].least - rounding
    stopped, file = play(learner_of(name, 0, device), calls[:middle]), io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = learner_of(name, 1, device)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    play(resumed, calls[middle:])
    assert difference(resumed.state_dict(), straight.state_dict()) is None
