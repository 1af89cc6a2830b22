import pytest
import torch
from strategy_models import Capture, batches_of, learner_of
from torch import nn
from torch.nn import functional as F

from lifelong import Batch, Prioritized
from lifelong.core.errors import InvalidBatch


def started(**settings):
    strategy, seen = Prioritized(12, **settings), Capture()
    learner = learner_of([strategy, seen])
    learner.begin_task(0)
    for batch in batches_of(4):
        learner.observe(batch)
    return strategy, seen, learner


def rate(strategy, scores):
    strategy.memory.policy.rate(torch.arange(len(scores)), torch.tensor(scores))


def test_rows_are_drawn_in_proportion_to_their_score_and_weighted_against_it():
    strategy, _, learner = started(rows=3000, sharpness=0.5)
    scores = torch.tensor([0.0, 1.0, 4.0, 9.0] * 3)
    rate(strategy, scores.tolist())
    chance = 0.9 * scores.sqrt() / scores.sqrt().sum() + 0.1 / 12
    batch = strategy.extend(learner, batches_of(1)[0])
    assert len(batch) == 3006
    assert torch.equal(batch.weight[:6], torch.ones(6))
    slot_of = {int(key): slot for slot, key in enumerate(strategy.memory.column("key"))}
    slots = torch.tensor([slot_of[int(key)] for key in batch.key[6:]])
    drawn = slots.bincount(minlength=12)
    assert ((drawn - 3000 * chance).abs() < 4.5 * (3000 * chance).sqrt()).all()
    torch.testing.assert_close(batch.weight[6:], (1 / (12 * chance))[slots])
    assert batch.weight.max() <= 10


@pytest.mark.parametrize("correction", [0.0, 0.5, 1.0])
def test_weights_have_a_mean_of_one_over_draws(correction):
    strategy, _, learner = started(rows=1, correction=correction)
    rate(strategy, [0.1, 5.0, 1.0, 0.0, 2.0, 9.0] * 2)
    chance = strategy._chances()
    batch = [strategy.extend(learner, batches_of(1)[0]) for _ in range(300)]
    weight = torch.cat([one.weight[6:] for one in batch])
    powers = (12 * chance) ** -correction
    expected = powers / (chance * powers).sum()
    assert abs(float((chance * expected).sum()) - 1) < 1e-9
    assert torch.isin(weight, expected.float()).all()


def test_full_correction_leaves_the_expected_loss_as_it_is():
    strategy, _, learner = started(rows=20000, sharpness=1.0)
    held = strategy.memory.all()
    with torch.no_grad():
        losses = F.cross_entropy(learner.model(held["x"]), held["y"], reduction="none")
    rate(strategy, losses.tolist())
    batch = strategy.extend(learner, batches_of(1)[0])
    with torch.no_grad():
        output = learner.model(batch.x[6:])
    drawn = F.cross_entropy(output, batch.y[6:], reduction="none")
    assert abs(float((drawn * batch.weight[6:]).mean() - losses.mean())) < 0.02


@pytest.mark.parametrize("score", ["loss", "entropy"])
def test_replayed_rows_are_rated_by_what_the_model_made_of_them(score):
    strategy, seen, learner = started(score=score)
    batch = batches_of(5)[4]
    learner.observe(batch)
    whole, output = seen.batches[-1], seen.outputs[-1]
    expected = F.cross_entropy(output, whole.y, reduction="none")
    if score == "entropy":
        expected = torch.distributions.Categorical(logits=output).entropy()
    by_key = dict(zip(whole.key[6:].tolist(), expected[6:].tolist(), strict=True))
    found = zip(strategy.memory.column("key").tolist(), strategy.memory.policy._scores, strict=True)
    rated = {key: float(score) for key, score in found if key in by_key and score == score}
    assert len(rated) >= 2
    assert all(abs(by_key[key] - value) < 1e-5 for key, value in rated.items())


def test_a_hard_row_stays_and_an_easy_one_goes():
    strategy = started()[0]
    hard = strategy.memory.column("key")[:3]
    rate(strategy, [60.0] * 3 + [0.0] * 9)
    for number, batch in enumerate(batches_of(3, seed=7)):
        rows = Batch.of(batch.x, batch.y, key=batch.key + 5000 + 100 * number)
        strategy.keep(rows, {})
    assert torch.isin(hard, strategy.memory.column("key")).all()


def test_wrong_use_is_refused():
    for settings, told in (
        ({"sharpness": -1}, "sharpness is -1"),
        ({"correction": 2}, "correction is 2"),
        ({"score": "margin"}, "score is 'margin'"),
        ({"policy": "ring"}, "policy is 'ring'"),
    ):
        with pytest.raises(ValueError, match=told):
            Prioritized(9, **settings)
    learner = learner_of(Prioritized(9), loss=lambda output, batch: output.mean())
    with pytest.raises(InvalidBatch, match="a scalar; Prioritized cannot do"):
        learner.observe(batches_of(1)[0])
    assert learner.batches == 0


@pytest.mark.parametrize("score", ["loss", "entropy"])
def test_rows_are_drawn_and_looked_at_with_every_so_many_th_batch(score):
    strategy, seen = Prioritized(50, every=3, score=score), Capture()
    counted = []

    def loss(output, batch):
        counted.append(len(output))
        return F.cross_entropy(output, batch.y, reduction="none")

    learner = learner_of([strategy, seen], loss=loss)
    rated = []
    for batch in batches_of(9):
        before = strategy.memory.policy.scores
        learner.observe(batch)
        rated.append(not torch.equal(before, strategy.memory.policy.scores[: len(before)]))
    assert [len(batch) for batch in seen.batches] == [6, 6, 12] * 3
    assert rated == [False, False, True] * 3
    looked = [6] if score == "loss" else []  # at replayed rows alone
    assert counted == [6, 6, 12, *looked] * 3


def test_a_loss_of_several_outputs_ranks_rows_too():
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, x):
            return {"one": self.layer(x), "half": self.layer(x) / 2}

    strategy = Prioritized(50)
    learner = learner_of(
        strategy,
        Both,
        loss=lambda out, batch: F.cross_entropy(out["one"], batch.y, reduction="none"),
    )
    for batch in batches_of(3):
        learner.observe(batch)
    assert strategy.memory.policy.scores.max() > 0


def test_an_entropy_wants_classes_which_the_first_step_looks_at():
    def model():
        return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))

    strategy = Prioritized(12, score="entropy")
    learner = learner_of(strategy, model, loss=lambda output, y: output.square())
    with pytest.raises(InvalidBatch, match=r'output has shape \(6,\); score="entropy" is over'):
        learner.observe(batches_of(1)[0])
    assert learner.batches == len(strategy.memory) == 0
