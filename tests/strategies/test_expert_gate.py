import pytest
import torch
from strategy_models import batches_of, learn, learner_of, mlp

from lifelong import Batch, ExpertGate
from lifelong.core.errors import NothingLeftToLearn, StateMismatch
from lifelong.nets import Experts

PLACES = (0.0, 50.0, -50.0)


def mixture():
    return Experts(mlp(), inputs=3, limit=2, rank=1)


def at(place, task):
    """Batches of a task whose rows lie around a place."""
    return [
        Batch.of(batch.x + place, batch.y, task, batch.key) for batch in batches_of(3, task=task)
    ]


def test_what_no_expert_explains_gets_a_new_one_and_what_one_does_its_own():
    learner = learner_of(ExpertGate(3.0), mixture)
    for task, place in enumerate((0.0, 50.0, 0.0, 50.0)):
        learn(learner, task, at(place, task))
    assert learner.model.assigned == [0, 1, 0, 1]
    assert learner.model.count.tolist() == [36.0, 36.0]


def test_other_experts_stay_as_they_are_bit_for_bit():
    learner = learner_of(ExpertGate(3.0), mixture)
    learn(learner, 0, at(0.0, 0))
    x = torch.randn(5, 3)
    told = learner.predict(x)
    learn(learner, 1, at(50.0, 1))
    assert torch.equal(learner.predict(x), told)  # routed there, with no task told
    assert not torch.equal(learner.predict(x + 50.0), told)


def test_without_an_expert_left_a_task_is_refused_or_joins_the_nearest():
    learner = learner_of(ExpertGate(3.0), mixture)
    for task in range(2):
        learn(learner, task, at(PLACES[task], task))
    learner.begin_task(2)
    before = learner.state_dict()["model"]
    with pytest.raises(NothingLeftToLearn, match=r"no expert explains task 2 .* all 2 have tasks"):
        learner.observe(at(-50.0, 2)[0])
    after = learner.state_dict()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)

    reusing = learner_of(ExpertGate(3.0, full="reuse"), mixture)
    for task in range(3):
        learn(reusing, task, at(PLACES[task], task))
    assert reusing.model.assigned == [0, 1, 0]


def figures(learner):
    return [*learner.model.known(0), *learner.model.known(1)]


@pytest.mark.parametrize("resumed", [False, True])
def test_consolidating_in_between_leaves_what_the_gate_knows_of_whole_tasks(resumed):
    straight, learner = (learner_of(ExpertGate(3.0), mixture) for _ in range(2))
    for task, place in enumerate((0.0, 50.0, 0.0)):
        batches = at(place, task)
        learn(straight, task, batches)
        learner.begin_task(task)
        learner.observe(batches[0])
        learner.consolidate(batches[:1])
        for batch in batches[1:]:
            learner.observe(batch)
        if resumed:
            state = learner.state_dict()
            learner = learner_of(ExpertGate(3.0), mixture)
            learner.load_state_dict(state)
        learner.end_task(batches)
        learner.consolidate(batches[:1])  # with no task open it has nothing to add
        for one, other in zip(figures(learner), figures(straight), strict=True):
            assert torch.equal(one, other)
    assert learner.model.count.tolist() == [36.0, 18.0]


def test_figures_that_do_not_fit_together_are_refused():
    learner = learner_of(ExpertGate(), mixture)
    learn(learner, 0, at(0.0, 0))
    state = learner.state_dict()
    before = state["strategies"][0]["state"]["before"]
    for damaged in (before[:4], [torch.zeros(4), *before[1:]], [*before[:4], torch.zeros(2)]):
        state["strategies"][0]["state"]["before"] = damaged
        with pytest.raises(StateMismatch, match="expert knew before its task has the shapes"):
            learner_of(ExpertGate(), mixture).load_state_dict(state)


def test_other_models_and_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="the model is MLP; make them of it"):
        learn(learner_of(ExpertGate()), 0, batches_of(1))
    with pytest.raises(ValueError, match=r"tolerance is 1\.0"):
        ExpertGate(1.0)
    with pytest.raises(ValueError, match="full is 'drop'"):
        ExpertGate(full="drop")
