import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import Failing, batches_of, copied, growing, learn, learner_of

from lifelong import DGR, Batch, MeRGAN, TaskSpec
from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.strategies.held_out import withhold
from lifelong.strategies.trigger import Trigger


def keep(trigger, learner, right, known, task, first):
    """Hold rows out of which the model is right about some and what is replayed about others."""
    x = batches_of(1, rows=len(right), task=task)[0].x
    told = learner.predict(x).argmax(1)
    y = told.where(torch.tensor(right), (told + 1) % 4)
    rows = Batch.of(x, y, task, torch.arange(len(right)) + first)
    trigger.keep(rows, torch.tensor(known), task, torch.Generator())


BITS = st.lists(st.booleans(), min_size=8, max_size=8)


@settings(max_examples=40, deadline=None)
@given(BITS, BITS, BITS, BITS, st.sampled_from([0.0, 0.2, 0.5]))
def test_it_goes_on_when_more_is_lost_than_is_tolerated(old, then, new, known, tolerance):
    learner, trigger = learner_of([]), Trigger(tolerance, every=3)
    keep(trigger, learner, old, then, 0, 0)
    keep(trigger, learner, new, known, 1, 100)
    trigger.on = False
    for learner.steps in range(1, 4):
        trigger.watch(learner, 1)
        if learner.steps < 3:
            assert not trigger.on
    lost = max(sum(then) - sum(old), sum(new) - sum(known)) / 8
    assert trigger.on == (lost > tolerance)


@pytest.mark.parametrize("on", [True, False])
def test_forgetting_counts_from_when_the_generator_last_knew(on):
    learner, trigger = learner_of([]), Trigger(0.1)
    keep(trigger, learner, [True, False], [False, True], 0, 0)
    keep(trigger, learner, [True, False], [False, False], 1, 100)
    trigger.on = on
    trigger.close(learner, 1)
    rows = trigger.held.all()
    found = [bool(right) for _, right in sorted(zip(rows["key"], rows["right"], strict=True))]
    assert found == [*([True, False] if on else [False, True]), True, False]
    assert not trigger.on


def test_without_a_tolerance_it_is_always_on_and_holds_nothing_out():
    trigger, batch = Trigger(), batches_of(1, rows=100)[0]
    assert trigger.withhold(batch) == (batch, None)
    trigger.close(learner_of([]), 0)
    assert trigger.on


def test_a_strategy_hands_its_settings_on():
    for kind in (DGR, MeRGAN):
        trigger = kind(tolerance=0.25, every=7, held=30).trigger
        assert (trigger.tolerance, trigger.every, trigger.held.capacity) == (0.25, 7, 30)


def generative(kind, **settings):
    return kind(width=8, strict=False, tolerance=0.3, every=2, **settings)


@pytest.mark.parametrize("kind", [DGR, MeRGAN])
def test_a_generator_rests_in_a_task_like_the_last_and_learns_one_of_new_classes(kind):
    strategy = generative(kind)
    learner = learner_of(strategy, growing, lr=0.5)

    def task(number, classes):
        batches = batches_of(40, rows=32, classes=classes, task=number)
        for batch in batches:
            with torch.no_grad():  # classes far apart, so that they are soon learned
                batch.x.add_(4 * torch.eye(4, 3)[batch.y] - 4 * (batch.y == 3)[:, None])
        before = copied(strategy.apprentice.weights()) if strategy.tasks else {}
        learn(learner, number, batches, classes)
        now = strategy.apprentice.weights()
        return any(not torch.equal(before[name], now[name]) for name in before)

    task(0, (0, 1))
    assert strategy.trigger.held.all()["right"].float().mean() > 0.9
    assert not task(1, (0, 1))
    assert len(strategy.reports) == 1
    assert task(2, (2, 3))
    assert len(strategy.reports) == 2
    if kind is MeRGAN:
        torch.testing.assert_close(sum(strategy.share[2:]), 1 / 3)


def test_held_out_rows_are_never_learned_from():
    dgr = generative(DGR)
    learner = learner_of(dgr)
    seen = []
    dgr.study = lambda learner, new, made: seen.extend(new.key.tolist())
    batches = batches_of(20, rows=40)
    learn(learner, 0, batches)
    held = dgr.trigger.held.all()["key"].tolist()
    assert len(held) > 10
    assert sorted(seen + held) == sorted(k for b in batches for k in b.key.tolist())
    dgr.forget(torch.tensor(held[:5]))
    assert sorted(dgr.trigger.held.all()["key"].tolist()) == sorted(held[5:])


def test_targets_that_are_no_classes_are_refused_before_the_step():
    learner = learner_of(generative(DGR))
    learner.begin_task(TaskSpec(0))
    with pytest.raises(InvalidBatch, match="a tolerance counts right answers"):
        learner.observe(Batch.of(torch.zeros(2, 3), torch.zeros(2)))


def test_its_state_is_whole_and_others_are_refused():
    one, other = Trigger(0.1), Trigger(0.1)
    keep(one, learner_of([]), [True, False], [True, True], 0, 0)
    one.on, one.measured = False, 12
    other.load_state_dict(one.state_dict())
    assert (other.on, other.measured, len(other.held)) == (False, 12, 2)
    for state in ({"on": True}, {**one.state_dict(), "on": "yes"}):
        with pytest.raises(StateMismatch):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [{"tolerance": -0.1}, {"tolerance": 1.0}, {"every": 0}, {"share": 0.6}, {"capacity": 0}],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Trigger(**wrong)


@pytest.mark.parametrize("wrong", ["x", "y"])
def test_rows_that_are_held_out_are_looked_at_before_the_step(wrong):
    strategy = generative(DGR)
    learner = learner_of(strategy)
    x, y, key = torch.randn(400, 3), torch.arange(400) % 4, torch.arange(400)
    _, held = withhold(Batch.of(x, y, 0, key), 0.05)
    place = int(held.key[0])
    (x if wrong == "x" else y)[place] = torch.nan if wrong == "x" else 99
    before = copied(learner.parameters)
    learner.begin_task(0)
    told = rf"\({place}\)" if wrong == "x" else "labels span 0 to 99"
    with pytest.raises(InvalidBatch, match=told):
        learner.observe(Batch.of(x, y, 0, key))
    assert learner.batches == len(strategy.trigger.held) == 0
    assert all(torch.equal(learner.parameters[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", [DGR, MeRGAN])
def test_erasing_reaches_rows_that_a_step_held_out_which_failed(kind):
    strategy = generative(kind)
    learner = learner_of([strategy, Failing()])
    with pytest.raises(OSError, match="no memory"):
        learner.observe(batches_of(1, rows=200)[0])
    assert strategy._held is not None
    learner.forget(list(range(200)))
    assert strategy._held is None


@pytest.mark.parametrize("kind", [DGR, MeRGAN])
def test_a_resumed_learner_takes_rows_without_keys_as_the_other_does(kind):
    def rows(**more):
        return Batch.of(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), **more)

    learner, twin = (learner_of(kind(width=8, tolerance=0.1, strict=False)) for _ in range(2))
    plain = rows()
    with pytest.raises(InvalidBatch, match="none of these 4 rows has a key"):
        learner.observe(plain)
    learner.observe(rows(key=torch.arange(4)))
    assert len(learner.strategies[0].trigger.held) == 0
    twin.load_state_dict(learner.state_dict())
    assert torch.equal(twin.observe(plain), learner.observe(plain))


def test_where_nothing_is_held_out_nobody_looks_whether_rows_have_keys():
    for tolerance, looked in ((None, False), (0.1, True)):
        trigger = Trigger(tolerance)
        trigger.saw(batches_of(1)[0])
        assert trigger.keyed is looked
