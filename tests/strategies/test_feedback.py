import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_models import batches_of, learner_of

from lifelong import EWC, Adaptive, Batch, Feedback
from lifelong.core.errors import InvalidBatch, LabelOutsideHead, StateMismatch

SHARES = st.floats(-1, 1)


def keyed(rows: int, first: int = 0) -> Batch:
    return Batch.of(torch.rand(rows, 3), torch.zeros(rows).long(), 0, torch.arange(rows) + first)


@given(st.lists(st.tuples(SHARES, SHARES, st.booleans()), max_size=60))
def test_the_factor_stays_within_its_bounds_and_moves_smoothly(measured):
    feedback = Feedback(rate=0.5, bound=8.0)
    for forgetting, intransigence, ended in measured:
        before = feedback.level
        feedback.steer(forgetting, intransigence, ended=ended)
        assert 1 / 8.0 - 1e-9 <= feedback.factor <= 8.0 + 1e-9
        assert abs(feedback.level - before) <= 0.5 * (1 + ended) + 1e-9


@given(SHARES, SHARES, SHARES, st.booleans())
def test_more_forgetting_never_gives_less_strength(one, other, intransigence, ended):
    low, high = Feedback(), Feedback()
    low.steer(min(one, other), intransigence, ended=ended)
    high.steer(max(one, other), intransigence, ended=ended)
    assert low.level <= high.level


@pytest.mark.parametrize(
    ("forgetting", "intransigence", "ended", "level"),
    [
        (0.02, 0.0, False, 0.0),  # on target
        (0.03, 0.0, False, 0.1),
        (0.5, 0.0, False, 0.2),  # cut off
        (0.0, 0.0, True, -0.2),
        (0.02, 0.075, True, -0.1),
        (0.02, 0.075, False, 0.0),  # a task that goes on may yet be learned
        (0.5, 0.5, True, 0.0),
    ],
)
def test_the_level_moves_by_the_equation(forgetting, intransigence, ended, level):
    feedback = Feedback(0.02, max_intransigence=0.05, rate=0.2)
    feedback.steer(forgetting, intransigence, ended=ended)
    assert feedback.level == pytest.approx(level)


@settings(max_examples=25)
@given(st.integers(0, 2**50), st.floats(0.02, 0.5))
def test_the_share_held_out_is_the_one_asked_for_and_depends_on_keys_alone(first, share):
    feedback = Feedback(share=share)
    batch = keyed(4000, first)
    kept, held = feedback.withhold(batch)
    assert held is not None
    assert abs(len(held) / 4000 - share) < 0.04
    assert sorted([*kept.key.tolist(), *held.key.tolist()]) == batch.key.tolist()
    again = feedback.withhold(batch.rows(torch.arange(3999, -1, -1)))[1]
    assert again is not None
    assert sorted(again.key.tolist()) == sorted(held.key.tolist())


def test_rows_without_a_key_and_lonely_rows_are_learned():
    feedback = Feedback(share=0.5)
    keys = torch.cat([torch.full((64,), -1), torch.arange(64)])
    batch = Batch.of(torch.rand(128, 3), torch.zeros(128).long(), 0, keys)
    rest, held = feedback.withhold(batch)
    assert held is not None
    assert -1 not in held.key
    assert int((rest.key == -1).sum()) == 64
    for row in range(20):
        alone = keyed(1, row)
        assert feedback.withhold(alone)[0] is alone


def test_a_batch_without_any_key_is_refused_as_none_of_it_could_be_held_out():
    batch = Batch.of(torch.rand(64, 3), torch.zeros(64).long())
    with pytest.raises(InvalidBatch, match=r"none of these 64 rows has a key; .* key=ids"):
        Feedback(share=0.5).withhold(batch)


def test_once_rows_with_keys_have_been_learned_from_others_may_have_none():
    learner = learner_of(Adaptive(EWC(1.0), feedback=Feedback(share=0.01)))
    learner.begin_task(0)
    plain = Batch.of(torch.rand(8, 3), torch.zeros(8).long())
    wrong = Batch.of(torch.rand(8, 3), torch.full((8,), 99), 0, torch.arange(8))
    with pytest.raises(LabelOutsideHead):
        learner.observe(wrong)
    with pytest.raises(InvalidBatch, match="none of these 8 rows has a key"):
        learner.observe(plain)  # a step that was refused leaves nothing behind
    learner.observe(keyed(8))
    assert len(learner.strategies[0].feedback.held) == 0
    resumed = learner_of(Adaptive(EWC(1.0), feedback=Feedback(share=0.01)))
    resumed.load_state_dict(learner.state_dict())
    assert torch.equal(resumed.observe(plain), learner.observe(plain))


def test_rows_are_not_taken_from_a_batch_that_others_have_extended():
    with pytest.raises(InvalidBatch, match=r"put what holds rows out .* first in the list"):
        Feedback().withhold(keyed(4).extended(keyed(4)))


def test_forgetting_and_intransigence_are_measured_on_held_out_rows():
    """A model that knows the old rows and not the new ones, then the other way round."""
    learner, chance = learner_of([]), torch.Generator().manual_seed(0)
    feedback = Feedback(0.1, max_intransigence=0.5, every=1, rate=1.0)
    old, new = batches_of(2, rows=10)
    answer_old = learner.predict(old.x).argmax(1)
    answer_new = learner.predict(new.x).argmax(1)
    feedback.keep(Batch.of(old.x, answer_old, 0, old.key), 0, chance)
    feedback.close(learner, 0)
    assert feedback.level == 0.0  # nothing is old yet
    wrong = (answer_new + 1) % 4
    feedback.keep(Batch.of(new.x, wrong, 1, new.key), 1, chance)
    feedback.close(learner, 1)
    # Nothing is forgotten: -1. All old rows were right, no new one is: (1 - 0.5) / 0.5 = 1 less.
    assert feedback.level == pytest.approx(-2.0)
    feedback.level, learner.steps = 0.0, 1
    with torch.no_grad():
        learner.model.output.weight.mul_(-1)  # the best class becomes the worst
        learner.model.output.bias.mul_(-1)
    feedback.watch(learner, 2)
    assert feedback.level == pytest.approx(1.0)


def test_it_measures_every_so_many_steps():
    learner, feedback = learner_of([]), Feedback(every=3)
    batch = batches_of(1)[0]
    feedback.keep(batch, 0, torch.Generator())
    feedback.close(learner, 0)
    found = []
    for _ in range(7):
        learner.observe(batch)
        feedback.watch(learner, 1)
        found.append(feedback.measured)
    assert found == [0, 0, 3, 3, 3, 6, 6]


def test_its_state_is_whole_and_others_are_refused():
    one, other = Feedback(capacity=20), Feedback(capacity=20)
    one.keep(keyed(9), 0, torch.Generator())
    one.level, one.measured = 0.7, 12
    other.load_state_dict(one.state_dict())
    assert (other.factor, other.measured) == (math.exp(0.7), 12)
    assert torch.equal(other.held.all()["key"], torch.arange(9))
    older = {name: part for name, part in one.state_dict().items() if name != "keyed"}
    other.load_state_dict(older)
    whole = one.state_dict()
    for state in ({"level": 0.0}, {**whole, "level": "high"}, {**whole, "keyed": 1}):
        with pytest.raises(StateMismatch):
            other.load_state_dict(state)


def test_erased_rows_are_held_no_more():
    feedback = Feedback()
    feedback.keep(keyed(9), 0, torch.Generator())
    feedback.forget(torch.tensor([3, 4, 99]))
    assert sorted(feedback.held.all()["key"].tolist()) == [0, 1, 2, 5, 6, 7, 8]


def test_targets_that_are_no_classes_are_refused():
    learner, feedback = learner_of([]), Feedback()
    batch = batches_of(1)[0]
    feedback.keep(Batch.of(batch.x, torch.rand(6), 0, batch.key), 0, torch.Generator())
    with pytest.raises(InvalidBatch, match="held-out rows are counted by right answers"):
        feedback.close(learner, 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_forgetting": 0.0}, "max_forgetting is 0.0"),
        ({"max_intransigence": 1.5}, "max_intransigence is 1.5"),
        ({"share": 0.6}, "share is 0.6"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"every": 0}, "every is 0"),
        ({"bound": 1.0}, "bound is 1.0"),
        ({"capacity": 0}, "capacity"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(given, told):
    with pytest.raises(ValueError, match=told):
        Feedback(**given)


def test_held_out_rows_that_cannot_be_kept_are_refused_before_the_step():
    feedback = Feedback(share=0.5)
    held = feedback.withhold(keyed(40))[1]
    assert held is not None
    feedback.keep(held, 0, torch.Generator())
    wrong = keyed(40)
    wrong = Batch.of(wrong.x.double(), wrong.y, key=wrong.key)
    with pytest.raises(InvalidBatch, match="column 'x'"):
        feedback.withhold(wrong)
