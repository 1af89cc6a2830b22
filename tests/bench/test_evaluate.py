import torch
from torch import nn
from torch.optim import SGD

from lifelong.bench.evaluate import evaluate
from lifelong.core.learner import Learner
from lifelong.core.task import TaskSpec
from lifelong.nets import MLP, Classifier, GrowingHead, MultiHead, TaskClassifier
from lifelong.streams import Rows


class Known(nn.Module):
    """Answers with its input."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.unused


def rows(x: torch.Tensor, y: list[int], task: int = 0) -> Rows:
    return Rows.of(x, torch.tensor(y), task=task)


def test_the_share_of_right_answers_on_each_part():
    model = Known()
    learner = Learner(model, SGD(model.parameters(), lr=0.1))
    answers = torch.eye(4)
    parts = [rows(answers, [0, 1, 2, 3]), rows(answers, [0, 1, 2, 0]), rows(answers, [3, 2, 1, 0])]
    assert evaluate(learner, parts, task_known=False) == [1.0, 0.75, 0.0]


def test_measuring_leaves_the_learner_as_it_was():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))
    learner = Learner(model, SGD(model.parameters(), lr=0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    twice = [
        evaluate(learner, [rows(torch.rand(9, 4), [0] * 9)], task_known=False)[0] for _ in "ab"
    ]
    assert all(0.0 <= share <= 1.0 for share in twice)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_tasks_that_have_not_begun_are_never_right():
    backbone = MLP(4, (8,))
    model = Classifier(backbone, GrowingHead(backbone.features))
    learner = Learner(model, SGD(model.parameters(), lr=0.1))
    assert evaluate(learner, [rows(torch.rand(3, 4), [0, 1, 0])], task_known=False) == [0.0]


def test_tasks_that_have_not_begun_are_right_by_chance_if_told():
    backbone = MLP(4, (8,))
    model = TaskClassifier(backbone, MultiHead(backbone.features))
    learner = Learner(model, SGD(model.parameters(), lr=0.1))
    learner.begin_task(TaskSpec(0, (0, 1)))
    parts = [rows(torch.rand(4, 4), [0, 1, 0, 1]), rows(torch.rand(4, 4), [2, 3, 4, 5], task=1)]
    known, chance = evaluate(learner, parts, task_known=True)
    assert 0.0 <= known <= 1.0
    assert chance == 0.25
