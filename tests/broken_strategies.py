"""Strategies that break one promise each, and the check that must find it."""

import random

import numpy as np
import torch

from lifelong import L2, Replay, Strategy


class Plain(Strategy):
    """Keep nothing, do nothing."""


class HiddenState(Strategy):
    """Count, but not in the state, and act by the count."""

    steps = 0

    def project(self, learner):
        self.steps += 1
        for parameter in learner.parameters.values():
            parameter.grad.mul_(1 + 0.1 * self.steps)


class RestlessState(Strategy):
    """Change a bit whenever the state is looked at."""

    looks = 0
    state = ("looks",)

    def state_dict(self):
        self.looks += 1
        return super().state_dict()


class Scribbler(Strategy):
    def extend(self, learner, batch):
        batch.x.mul_(0.5)
        return batch


class ScribblesAtTheEnd(Strategy):
    def consolidate(self, learner, data):
        for batch in data:
            batch.y.zero_()


class ActsTooEarly(Strategy):
    """Change the state before it is sure that the step will be taken."""

    state = ("steps",)

    def __init__(self):
        self.steps = 0

    def extend(self, learner, batch):
        self.steps += 1
        return batch


class SwallowsNaN(Strategy):
    def extend(self, learner, batch):
        return type(batch).of(batch.x.nan_to_num(), batch.y.clamp(max=1), batch.task, batch.key)


class TorchDice(Strategy):
    def after_step(self, learner, batch, output):
        torch.rand(1)


class NumpyDice(Strategy):
    def after_step(self, learner, batch, output):
        np.random.rand()  # noqa: NPY002


class PythonDice(Strategy):
    def consolidate(self, learner, data):
        random.random()


class LearnersDice(Strategy):
    """Draw from torch's default generator where it is the learner's."""

    def project(self, learner):
        for parameter in learner.parameters.values():
            parameter.grad.add_(torch.randn_like(parameter), alpha=0.01)


class Shared(Strategy):
    """A list in the class."""

    state = ("losses",)
    losses: list[float] = []  # noqa: RUF012 - that is what is broken here

    def after_step(self, learner, batch, output):
        self.losses.append(float(output.sum()))
        del self.losses[:-5]


class Promiscuous(Strategy):
    def attach(self, device, seed):
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)


class Hoarder(Strategy):
    """Keep every output's sum for ever."""

    state = ("sums",)

    def __init__(self):
        self.sums = []

    def after_step(self, learner, batch, output):
        self.sums.append(float(output.sum()))


class HoardsScalars(Strategy):
    """Keep a tensor without dimensions of every batch, for ever."""

    state = ("all",)

    def __init__(self):
        self.all = []

    def after_step(self, learner, batch, output):
        self.all.append(batch.x.mean())


class Lengthens(Strategy):
    """Make one tensor a value longer with every batch."""

    state = ("all",)

    def __init__(self):
        self.all = torch.zeros(0)

    def after_step(self, learner, batch, output):
        self.all = torch.cat((self.all, batch.x.mean()[None]))


class Misspelt(Strategy):
    state = ("avrage",)

    def __init__(self):
        self.average = {}


class ActsNever(Strategy):
    """Misspell the one moment."""

    def before_step(self, learner, batch, output):
        raise AssertionError("never called")


class NamesNothing(Strategy):
    state = ("zeal",)


class StateOfLetters(Strategy):
    state = "average"


class NotSub:
    """Not derived from Strategy."""


class TermForEachTask(Strategy):
    state = ("anchors",)

    def __init__(self):
        self.anchors = []

    def consolidate(self, learner, data):
        self.anchors.append([p.detach().clone() for p in learner.parameters.values()])


class Elephant(Replay):
    """Never forget."""

    def forget(self, keys):
        del keys


class KeepsIds(Strategy):
    state = ("ids",)

    def __init__(self):
        self.ids = []

    def after_step(self, learner, batch, output):
        self.ids = batch.key.tolist()


class KeepsAView(Strategy):
    """The last row of each batch, with all others still behind it in memory."""

    state = ("row",)

    def __init__(self):
        self.row = torch.zeros(1)

    def after_step(self, learner, batch, output):
        self.row = batch.x[-1]


class ForgetsTooMuch(Replay):
    def forget(self, keys):
        held = self.memory.all()
        super().forget(held["key"] if held else keys)


class CountsIds(Replay):
    """Say how many rows were named, not how many were there."""

    def forget(self, keys):
        super().forget(keys)
        return len(keys)


class ForgetsSilently(Replay):
    def forget(self, keys):
        super().forget(keys)


class KeepsASet(Strategy):
    state = ("classes",)

    def __init__(self):
        self.classes = set()

    def after_step(self, learner, batch, output):
        self.classes.update(batch.y.tolist())


class TakesAnyState(L2):
    def load_state_dict(self, state):
        self.importance = dict(state.get("importance", {}))
        self.anchor = dict(state.get("anchor", {}))
        self.generator.set_state(state.get("generator", self.generator.get_state()))


class IgnoresShapes(Strategy):
    """State that is loaded without being looked at, and never used."""

    state = ("table",)

    def __init__(self):
        self.table = torch.zeros(3)


BROKEN = [
    ("makes_strategies", Misspelt, "Misspelt names 'avrage'.*did you mean 'average'"),
    (
        "makes_strategies",
        ActsNever,
        "ActsNever has before_step, which nothing calls.*: extend, pen",
    ),
    ("makes_strategies", NamesNothing, "names 'zeal', which it does not have; set it in __init__"),
    ("makes_strategies", StateOfLetters, r"is the string 'average'; make it a tuple: state = \("),
    ("makes_strategies", NotSub, "what is made is of NotSub, which is no Strategy; derive its"),
    ("makes_strategies", lambda: [Plain(), 3], "what is made is of int, which is no Strategy"),
    (
        "makes_strategies",
        Plain(),
        "received an instance of Plain; give what makes .* lambda: Plain",
    ),
    ("resumes_bit_for_bit", HiddenState, "resumed after"),
    ("resumes_bit_for_bit", RestlessState, "saved on its way"),
    ("leaves_inputs_alone", Scribbler, "batch that was given"),
    ("leaves_inputs_alone", ScribblesAtTheEnd, "batch that was given"),
    ("undoes_a_failing_step", ActsTooEarly, "NaN leaves something behind: state/strategies/0"),
    ("undoes_a_failing_step", SwallowsNaN, "with NaN is learned from"),
    ("draws_no_global_randomness", TorchDice, "random/torch"),
    ("draws_no_global_randomness", NumpyDice, "random/numpy"),
    ("draws_no_global_randomness", PythonDice, "random/python"),
    ("draws_no_global_randomness", LearnersDice, "the learner's"),
    ("keeps_to_itself", Shared, "one instance changes with another"),
    ("keeps_to_itself", Promiscuous, "taken by two learners"),
    ("stays_bounded", Hoarder, "grew to"),
    ("stays_bounded", HoardsScalars, "grew to"),
    ("stays_bounded", Lengthens, "grew to"),
    ("stays_bounded", TermForEachTask, "grew to"),
    ("forgets_rows", lambda: Elephant(50), "memory/columns/.* holds the"),
    ("forgets_rows", KeepsIds, "ids/0 is the id of a row"),
    ("forgets_rows", KeepsAView, "holds the values of a row"),
    ("forgets_rows", lambda: ForgetsTooMuch(50), "ids that nobody has"),
    ("forgets_rows", lambda: CountsIds(50), "once more counts"),
    ("forgets_rows", lambda: ForgetsSilently(50), "changes .* and counts no entries"),
    ("keeps_plain_state", KeepsASet, "state/0 KeepsASet/classes, a set"),
    ("refuses_other_states", TakesAnyState, "TakesAnyState without 'importance' is taken"),
    ("refuses_other_states", IgnoresShapes, "table of IgnoresShapes with one row more is taken"),
    ("beats_naive", Plain, "plain training has"),
]
