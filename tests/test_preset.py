import pytest
import torch
from torch import nn

from lifelong import Batch, Replay, TaskSpec, default_learner
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.evaluate import evaluate
from lifelong.bench.suites import resolve
from lifelong.core import checkpoint
from lifelong.core.errors import BudgetTooSmall, InvalidBatch, UnknownName
from lifelong.nets import MLP, Classifier, GrowingHead, add_lora
from lifelong.preset import TRAINING


class Ages(nn.Module):
    """Takes a dict of inputs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, age, id):
        return self.head(torch.cat((age, id.float()[:, None]), 1))


class Bytes(nn.Module):
    """Takes images of bytes."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(x.flatten(1) / 255)


def images(rows):
    return torch.randint(256, (rows, 1, 4, 4), dtype=torch.uint8)


CASES = {
    "vectors": (lambda: nn.Linear(5, 4), lambda rows: torch.randn(rows, 5), torch.float16),
    "images of bytes": (Bytes, images, torch.uint8),
    "images of floats": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)),
        lambda rows: images(rows) / 255,
        torch.float16,
    ),
    "a dict": (
        Ages,
        lambda rows: {"age": torch.randn(rows, 2), "id": torch.arange(rows)},
        torch.float16,
    ),
    "a growing head": (
        lambda: Classifier(MLP(5, (6,)), GrowingHead(6)),
        lambda rows: torch.randn(rows, 5),
        torch.float16,
    ),
    "a growing head alone": (
        lambda: Classifier(MLP(5, (6,)).requires_grad_(False), GrowingHead(6)),
        lambda rows: torch.randn(rows, 5),
        torch.float16,
    ),
    "adapters by task": (
        lambda: add_lora(Classifier(MLP(5, (6,)), GrowingHead(6)), rank=2, sets="task"),
        lambda rows: torch.randn(rows, 5),
        torch.float16,
    ),
}


def made(model, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return default_learner(model(), "3KB", **settings)


@pytest.mark.parametrize(("model", "inputs", "kept"), CASES.values(), ids=CASES)
def test_any_module_learns_within_the_bytes_and_resumes_bit_for_bit(model, inputs, kept, tmp_path):
    torch.manual_seed(1)
    batches = [Batch.of(inputs(6), torch.arange(6) % 4, key=torch.arange(6) + 6 * k)
               for k in range(12)]  # fmt: skip
    learner = made(model)
    learner.begin_task(TaskSpec(0, (0, 1, 2, 3)))  # called once, never ended
    start = [parameter.detach().clone() for parameter in learner.parameters.values()]
    for batch in batches[:9]:
        learner.observe(batch)
    assert start
    for parameter, then in zip(learner.parameters.values(), start, strict=True):
        assert not torch.equal(parameter, then)
    learner.save(tmp_path / "learner.safetensors")
    again = made(model)
    again.load_state_dict(checkpoint.load(tmp_path / "learner.safetensors"))
    for batch in batches[9:]:
        assert torch.equal(learner.observe(batch), again.observe(batch))
    for one, other in zip(learner.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    memory = learner.strategies[0].memory
    assert 0 < memory.nbytes <= 3000
    assert kept in {memory.column(name).dtype for name in memory.all() if name.startswith("x")}


def test_what_it_is_made_of_is_what_the_benchmarks_run():
    config = {**resolve("split-fashion-mnist", "default", {}), "seed": 0}
    assert TRAINING.items() <= config.items()
    assert resolve("digits", "default", {"lr": 0.1})["lr"] == 0.1
    learner = default_learner(nn.Linear(2, 2))
    group = learner.optimizer.param_groups[0]
    assert (type(learner.optimizer).__name__.lower(), group["lr"]) == ("adam", TRAINING["lr"])
    assert [strategy.capacity for strategy in learner.strategies] == ["10000000B"]


def test_settings_of_the_learner_go_through():
    assert made(lambda: nn.Linear(2, 2), clip=1.0).clip == 1.0
    assert made(lambda: nn.Linear(2, 2), store="int8").strategies[0].memory.codec.name == "int8"


def test_a_model_in_which_nothing_trains_is_refused():
    for model in (nn.Flatten(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ValueError, match="has no parameters that train; unfreeze some"):
            default_learner(model)


@pytest.mark.parametrize("memory", ["ten megabytes", "0MB", "10 apples", 0, -3, 2.5, None])
def test_a_memory_that_is_no_size_is_refused(memory):
    with pytest.raises(ValueError, match="capacity"):
        default_learner(nn.Linear(2, 2), memory)


def test_an_unknown_way_to_store_is_refused():
    with pytest.raises(UnknownName, match="way to store rows"):
        default_learner(nn.Linear(2, 2), store="zip")


def test_bytes_too_few_and_values_too_large_are_told_before_the_step():
    learner = default_learner(nn.Linear(5, 4), "50B")
    with pytest.raises(BudgetTooSmall, match="give at least"):
        learner.observe(Batch.of(torch.zeros(6, 5), torch.arange(6) % 4))
    learner = default_learner(nn.Linear(5, 4))
    with pytest.raises(InvalidBatch, match="fp16"):
        learner.observe(Batch.of(torch.full((6, 5), 1e6), torch.arange(6) % 4))
    assert learner.steps == 0


def test_it_needs_no_task_at_all():
    chance = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(4, 5, generator=chance)
    learner = made(lambda: MLP(5, (16,), outputs=4))
    for step in range(200):  # the second pair of classes comes when the first has gone
        y = torch.randint(2, (6,), generator=chance) + 2 * (step // 100)
        learner.observe(Batch.of(centers[y] + torch.randn(6, 5, generator=chance), y))
    y = torch.arange(400) % 4
    right = learner.predict(centers[y] + torch.randn(400, 5, generator=chance)).argmax(1) == y
    assert right[y < 2].float().mean() > 0.8
    assert right[y > 1].float().mean() > 0.8


def end_of(strategy):
    """The average accuracy on validation rows of digits, with memories of equal bytes."""
    given = {"validation": 0.2, "on": "valid", f"{strategy}.capacity": "12KB"}
    config = {**resolve("digits", strategy, given), "seed": 20}
    stream = stream_of(config)
    learner = learner_of(config, stream)
    for task in stream:
        learner.begin_task(task)
        for batch in task:
            learner.observe(batch)
        learner.end_task(task)
    found = evaluate(learner, [task.valid for task in stream.tasks], False)
    return sum(found) / len(found)


def test_on_digits_it_is_above_plain_replay_of_as_many_bytes():
    assert Replay("12KB").capacity == "12000B"
    assert end_of("default") > end_of("replay")


def test_a_memory_beyond_the_machine_is_refused_before_the_step():
    learner = default_learner(nn.Linear(20, 6), memory="1000000GB")
    with pytest.raises(BudgetTooSmall, match="no room here for"):
        learner.observe(Batch.of(torch.randn(6, 20), torch.arange(6)))
    assert learner.steps == 0
