import numpy as np
import pytest
import torch
from recorded import Recorded, stream
from small_service import examples

from lifelong.serve.answers import NEVER, Answers


@pytest.fixture
def service(tmp_path):
    with Recorded(tmp_path, stream(60)) as made:
        yield made


def test_answers_are_restored_with_what_was_served(service):
    answers = Answers(service.trainer, (1, 4))
    answers.answer(np.zeros((4, 6), np.float32), [0, 1, 2, 3], [None] * 4)
    again = Answers(service.trainer, (1, 4))
    again.load_state_dict(answers.state_dict())
    assert again.right == answers.right
    assert sum(again.right[4]) == 1


@pytest.mark.parametrize("intervals", [(2, 2), (-1,)])
def test_senseless_intervals_are_refused(service, intervals):
    with pytest.raises(ValueError, match="give different numbers"):
        Answers(service.trainer, intervals)


def test_each_interval_serves_the_weights_of_its_last_sync(service):
    """Right or wrong of all labels tells which class is answered; it changes at syncs alone."""
    answers = Answers(service.trainer, (1, 4, NEVER))
    learner, rows = service.trainer.learner, np.random.default_rng(0).normal(size=(64, 6))
    rows = rows.astype(np.float32)
    began, synced = learner.batches, learner.batches
    weights = {began: learner.predict(torch.from_numpy(rows)).argmax(1)}

    def look():
        nonlocal synced
        now = learner.batches
        weights[now] = learner.predict(torch.from_numpy(rows)).argmax(1)
        synced = now if now % 4 == 0 else synced
        answers.answer(rows, weights[now].tolist(), [None] * 64)
        told = {k: np.array(answers.right[k][-64:]) for k in answers.right}
        assert told[1].all()
        assert (told[4] == (weights[synced] == weights[now]).numpy()).all()
        assert (told[NEVER] == (weights[began] == weights[now]).numpy()).all()

    service.trainer.before = look
    service.add(examples(120, seed=3))
    assert learner.batches > began + 8
    assert not np.array(answers.right[NEVER][-64:]).all()
