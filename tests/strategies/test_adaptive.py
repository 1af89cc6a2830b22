import pytest
import torch
from strategy_models import Failing, batches_of, copied, expect_close, growing, learn, learner_of

from lifelong import (
    DER,
    EWC,
    SI,
    Adaptive,
    Batch,
    ClassRatio,
    Feedback,
    LwF,
    MeanTeacher,
    PerTask,
    Replay,
    Rising,
    Strategy,
    TaskSpec,
)
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.core.strategy import acts_at
from lifelong.strategies.held_out import withhold
from lifelong.strategies.schedules import Progress

MOMENTS = ("extend", "penalty", "project", "after_step", "consolidate")


def same(progress: Progress) -> float:
    return 1.0


@pytest.mark.parametrize(
    "make",
    [lambda: EWC(5.0), lambda: LwF(1.0), lambda: SI(1.0), lambda: DER(20), MeanTeacher],
    ids=["ewc", "lwf", "si", "der", "mean teacher"],
)
def test_with_a_factor_of_one_it_learns_bit_for_bit_what_the_other_does_alone(make):
    wrapped, alone = learner_of(Adaptive(make(), schedule=same)), learner_of(make())
    for learner in (wrapped, alone):
        for task in range(3):
            learn(learner, task, batches_of(3, task=task))
    expect_close(dict(wrapped.model.state_dict()), dict(alone.model.state_dict()), 0.0)


def test_it_acts_where_the_inner_strategy_acts_and_where_it_has_to():
    def moments(strategy):
        return [moment for moment in MOMENTS if acts_at(strategy, moment)]

    assert moments(EWC(1.0)) == ["project", "consolidate"]
    assert moments(Adaptive(EWC(1.0), schedule=same)) == ["project", "consolidate"]
    assert moments(Adaptive(DER(9), schedule=same)) == [*MOMENTS[:2], *MOMENTS[3:]]
    assert moments(Adaptive(EWC(1.0), feedback=Feedback())) == [*MOMENTS]


class Noting(Strategy):
    """Notes the strength that it has at each of its acts."""

    def __init__(self) -> None:
        self.strength = 2.0
        self.noted: list[float] = []

    def penalty(self, learner, batch, output):
        self.noted.append(self.strength)
        return 0.0


def test_the_strength_follows_the_steps_of_a_task():
    inner = Noting()
    learner = learner_of(Adaptive(inner, schedule=Rising(over=4, start=0.5)))
    for task in range(2):
        learn(learner, task, batches_of(5, task=task))
    assert inner.noted == [1.0, 1.25, 1.5, 1.75, 2.0] * 2


def test_the_strength_follows_the_number_of_tasks_and_of_classes():
    tasks, ratio = Noting(), Noting()
    learner = learner_of(
        [Adaptive(tasks, schedule=PerTask()), Adaptive(ratio, schedule=ClassRatio(1.0))], growing
    )
    for task, classes in enumerate([(0, 1, 2, 3), (4, 5), (0, 6)]):
        learn(learner, task, batches_of(1, classes=classes, task=task), classes)
    assert tasks.noted == [2.0, 2.0, 4.0]
    assert ratio.noted == [2.0, 4.0, 12.0]  # of the third task's classes one is new, six are old


def test_a_schedule_and_feedback_multiply():
    inner, feedback = Noting(), Feedback(bound=10.0)
    feedback.level = 1.0
    learner = learner_of(Adaptive(inner, schedule=lambda progress: 3.0, feedback=feedback))
    learner.observe(batches_of(1)[0])
    assert inner.noted == [pytest.approx(2.0 * 3.0 * feedback.factor)]


class Witness(Strategy):
    """Notes the ids that it gets to see."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def penalty(self, learner, batch, output):
        self.seen |= set(batch.key.tolist())
        return 0.0


def test_held_out_rows_are_neither_learned_nor_replayed_in_any_epoch():
    adaptive = Adaptive(EWC(1.0), feedback=Feedback(share=0.3, every=2))
    witness, replay = Witness(), Replay(40)
    learner = learner_of([adaptive, replay, witness])
    for task in range(2):
        learn(learner, task, batches_of(6, task=task) * 3)
    held = set(adaptive.feedback.held.all()["key"].tolist())
    everything = {int(k) for task in range(2) for b in batches_of(6, task=task) for k in b.key}
    assert held
    assert not held & witness.seen
    assert not held & set(replay.memory.all()["key"].tolist())
    assert held | witness.seen == everything
    assert set(adaptive.feedback.held.all()["period"].tolist()) == {0, 1}


def test_a_place_behind_replay_is_refused_with_the_way_out():
    learner = learner_of([Replay(20), Adaptive(EWC(1.0), feedback=Feedback())])
    first, second = batches_of(2)
    learner.observe(first)
    state = learner.state_dict()["model"]
    with pytest.raises(InvalidBatch, match="first in the list"):
        learner.observe(second)
    expect_close(dict(learner.model.state_dict()), state, 0.0)


def test_forgetting_raises_the_strength_of_a_strategy_that_is_too_weak():
    """Two tasks that contradict each other: whatever is forgotten shows on held-out rows."""
    adaptive = Adaptive(
        EWC(1e-6), feedback=Feedback(0.05, share=0.3, every=1, max_intransigence=1.0)
    )
    learner = learner_of(adaptive, lr=0.5)
    for task in range(2):
        batches = [
            type(b).of(b.x, (b.x[:, 0] > 0).long() ^ task, task, b.key)
            for b in batches_of(20, rows=16, task=task)
        ]
        learn(learner, task, batches)
    assert adaptive.feedback.factor > 3.0
    assert adaptive.inner.strength == pytest.approx(1e-6 * adaptive.feedback.factor, rel=0.5)


def test_a_failed_step_sets_the_inner_strategys_chance_back():
    adaptive = Adaptive(DER(20), schedule=same)
    learner = learner_of(adaptive)
    first, second = batches_of(2)
    learner.observe(first)
    before = adaptive.inner.generator.get_state()
    with pytest.raises(InvalidBatch):
        learner.observe(type(second).of(second.x * torch.nan, second.y))
    assert torch.equal(adaptive.inner.generator.get_state(), before)


def test_a_state_of_another_strategy_is_refused():
    ewc = learner_of(Adaptive(EWC(1.0), schedule=same))
    state = ewc.state_dict()
    for other in (
        Adaptive(SI(1.0), schedule=same),
        Adaptive(EWC(1.0), schedule=same, feedback=Feedback()),
    ):
        with pytest.raises(StateMismatch, match="in the state of Adaptive"):
            learner_of(other).load_state_dict(state)


def test_erasing_reaches_the_inner_strategy_and_the_held_out_rows():
    adaptive = Adaptive(DER(40), feedback=Feedback(share=0.5))
    learner = learner_of(adaptive)
    for batch in batches_of(4):
        learner.observe(batch)
    learner.forget(list(range(12)))
    assert int(adaptive.inner.memory.all()["key"].min()) >= 12
    assert int(adaptive.feedback.held.all()["key"].min()) >= 12


def test_erasing_reaches_rows_that_a_step_held_out_which_failed():
    adaptive = Adaptive(EWC(1.0), feedback=Feedback(share=0.5))
    learner = learner_of([adaptive, Failing()])
    with pytest.raises(OSError, match="no memory"):
        learner.observe(batches_of(1)[0])
    assert adaptive._held is not None
    learner.forget(list(range(6)))
    assert adaptive._held is None


def test_a_strategy_without_a_strength_or_nothing_to_adapt_by_is_refused():
    with pytest.raises(ValueError, match="Replay has no strength"):
        Adaptive(Replay(9), schedule=same)
    with pytest.raises(ValueError, match="neither a schedule nor feedback"):
        Adaptive(EWC(1.0))


def test_a_schedule_that_gives_nonsense_is_refused():
    learner = learner_of(Adaptive(Noting(), schedule=lambda progress: -1.0))
    learner.begin_task(TaskSpec(0))
    with pytest.raises(ValueError, match=r"strength is -2.0"):
        learner.observe(batches_of(1)[0])


def test_the_inner_strategy_takes_back_what_rows_taught():
    told = []

    class Erasable(Strategy):
        strength = 1.0

        def unlearn(self, learner, keys):
            told.append(keys.tolist())

    learner_of(Adaptive(Erasable(), schedule=same)).forget([3, 5])
    assert told == [[3, 5]]


@pytest.mark.parametrize("y", [torch.ones(6), torch.ones(6, 4), torch.ones(6, 4).long()])
def test_labels_that_are_no_classes_are_refused_in_the_first_step(y):
    learner = learner_of(
        Adaptive(EWC(1.0), feedback=Feedback()), loss=lambda output, y: output.square().mean(1)
    )
    before = copied(learner.parameters)
    learner.begin_task(0)
    with pytest.raises(InvalidBatch, match="no class a row"):
        learner.observe(Batch.of(torch.randn(6, 3), y, 0, torch.arange(6)))
    assert learner.steps == learner.batches == 0
    expect_close(copied(learner.parameters), before, 0.0)


@pytest.mark.parametrize("wrong", ["x", "y"])
def test_rows_that_are_held_out_are_looked_at_before_the_step(wrong):
    feedback = Feedback(share=0.3)
    learner = learner_of(Adaptive(EWC(1.0), feedback=feedback))
    x, y, key = torch.randn(40, 3), torch.arange(40) % 4, torch.arange(40)
    _, held = withhold(Batch.of(x, y, 0, key), 0.3)
    place = int(held.key[0])
    (x if wrong == "x" else y)[place] = torch.nan if wrong == "x" else 99
    before = copied(learner.parameters)
    learner.begin_task(0)
    told = rf"\({place}\)" if wrong == "x" else "labels span 0 to 99"
    with pytest.raises(InvalidBatch, match=told):
        learner.observe(Batch.of(x, y, 0, key))
    assert learner.batches == len(feedback.held) == 0
    assert all(torch.equal(learner.parameters[name], before[name]) for name in before)
