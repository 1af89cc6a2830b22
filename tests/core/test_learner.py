import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from small_learners import Noisy, batches, flat, growing, learner, net, whole
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from lifelong.core import learner as learner_module
from lifelong.core.batch import Batch
from lifelong.core.errors import (
    EmptyTask,
    InvalidBatch,
    LabelOutsideHead,
    NonFiniteLoss,
    NothingLeftToLearn,
)
from lifelong.core.learner import Learner, _derived
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec
from lifelong.nets import (
    MLP,
    Classifier,
    GrowingHead,
    MultiHead,
    Packed,
    TaskClassifier,
    TaskHeads,
    add_lora,
)
from lifelong.strategies import EWC, SI, DERpp, LwF, PackNet, Replay

MAKERS = {
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=1e-2),
}


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("name", MAKERS)
def test_it_is_a_loop_written_by_hand_bit_for_bit(name, clip, accumulate):
    """With BatchNorm, Dropout of the same seed, a scheduler, weight decay."""
    ours, hand = net(), net()
    optimizer = MAKERS[name](ours.parameters())
    scheduler = StepLR(optimizer, 5, 0.5)
    taught = Learner(ours, optimizer, seed=3, scheduler=scheduler, clip=clip, accumulate=accumulate)
    losses = [taught.observe(batch).item() for batch in batches(40)]

    optimizer = MAKERS[name](hand.parameters())
    scheduler = StepLR(optimizer, 5, 0.5)
    torch.manual_seed(_derived(3, "model"))
    for index, batch in enumerate(batches(40)):
        loss = F.cross_entropy(hand(batch.x), batch.y)
        assert loss.item() == losses[index]
        (loss / accumulate).backward()
        if (index + 1) % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(hand.parameters(), clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert flat(ours.state_dict()) == flat(hand.state_dict())
    assert flat(taught.optimizer.state_dict()) == flat(optimizer.state_dict())
    assert (taught.batches, taught.steps) == (40, 40 // accumulate)


def test_the_returned_loss_is_detached():
    loss = learner().observe(batches(1)[0])
    assert not loss.requires_grad
    assert loss.shape == ()


def test_accumulated_batches_are_one_large_batch():
    large, small = net(dropout=0), net(dropout=0)
    for model in (large, small):
        model[1] = nn.Identity()
    four = batches(4)
    whole_batch = Batch.of(torch.cat([b.x for b in four]), torch.cat([b.y for b in four]))
    learner(large).observe(whole_batch)
    taught = learner(small, accumulate=4)
    for batch in four:
        taught.observe(batch)
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.lin = nn.Linear(5, 4)

    def forward(self, item, features):
        return self.lin(torch.cat((self.embed(item), features), 1))


def named_batch(rows=7):
    chance = torch.Generator().manual_seed(0)
    x = {
        "features": torch.randn(rows, 2, generator=chance),
        "item": torch.randint(5, (rows,), generator=chance),
    }
    return Batch.of(x, torch.randint(4, (rows,), generator=chance))


def test_inputs_may_be_named():
    torch.manual_seed(0)
    taught = learner(Named(), [Replay(capacity=20)])
    batch = named_batch()
    losses = [taught.observe(batch).item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert taught.predict(batch.x).shape == (7, 4)
    assert torch.equal(taught.predict(batch.x, rows=3), taught.predict(batch.x, rows=3))


class Aware(nn.Module):
    """Shows which tasks it is asked with."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)
        self.asked = []

    def forward(self, x, task):
        self.asked.append(task.tolist())
        return self.lin(x) + task[:, None]


def test_a_model_that_wants_the_task_gets_it():
    model = Aware()
    taught = learner(model)
    batch = batches(1, rows=3)[0]
    taught.observe(replace(batch, task=torch.tensor([2, 0, 1])))
    taught.predict(batch.x)
    taught.predict(batch.x, 5)
    taught.predict(batch.x, torch.tensor([1, 2, 3]), rows=2)
    taught.output(replace(batch, task=torch.tensor([4, 4, 4])))
    assert model.asked == [[2, 0, 1], [-1, -1, -1], [5, 5, 5], [1, 2], [3], [4, 4, 4]]
    with pytest.raises(InvalidBatch, match="task has 2"):
        taught.predict(batch.x, torch.tensor([1, 2]))


def test_regression():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    taught = learner(model, [Replay(10)], SGD(model.parameters(), lr=0.1), loss=nn.MSELoss())
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    for _ in range(200):
        loss = taught.observe(Batch.of(x, y))
    assert loss.item() < 1e-4
    assert taught.loss(taught.predict(x), Batch.of(x, y)).shape == (64,)


class Twofold(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 1)

    def forward(self, x):
        return {"logits": self.one(x), "sizes": [self.two(x)]}


def test_several_outputs_and_a_loss_of_ones_own():
    seen = []

    class Watch(Strategy):
        def after_step(self, learner, batch, output):
            seen.append(output)

    def loss(output, batch):
        sizes = output["sizes"][0][:, 0]
        return F.cross_entropy(output["logits"], batch.y, reduction="none") + sizes.square()

    taught = learner(Twofold(), [Watch()], loss=loss)
    batch = batches(1)[0]
    expected = loss(taught.model(batch.x), batch).mean().item()
    assert taught.observe(batch).item() == expected
    assert not seen[0]["logits"].requires_grad
    assert not seen[0]["sizes"][0].requires_grad


def test_rows_are_weighted():
    class Light(Strategy):
        def extend(self, learner, batch):
            weight = torch.zeros(len(batch))
            weight[0] = 2.0
            return replace(batch, weight=weight)

    batch = batches(1)[0]
    one, other = nn.Linear(6, 4), nn.Linear(6, 4)
    other.load_state_dict(one.state_dict())
    learner(one, [Light()]).observe(batch)
    learner(other).observe(batch.rows(slice(1)))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class Recorder(Strategy):
    def __init__(self):
        self.gradients = []

    def project(self, learner):
        self.gradients.append([p.grad.clone() for p in learner.parameters.values()])


def straight(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))


def test_bf16_computes_forward_in_half_and_keeps_weights_whole():
    dtypes = []
    model = straight()
    model[2].register_forward_hook(lambda module, x, output: dtypes.append(output.dtype))
    taught = learner(model, precision="bf16")
    exact = learner(straight())
    for batch in batches(5):
        half, full = taught.observe(batch), exact.observe(batch)
        assert half.dtype == torch.float32
        assert abs(half.item() - full.item()) < 0.03
    assert set(dtypes) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert taught.predict(batches(1)[0].x).dtype == torch.bfloat16


@pytest.mark.parametrize("accumulate", [1, 3])
def test_strategies_see_unscaled_gradients_in_fp16(accumulate):
    half, full = Recorder(), Recorder()
    one = learner(straight(), [half], precision="fp16", accumulate=accumulate)
    other = learner(straight(), [full], accumulate=accumulate)
    for batch in batches(6):
        one.observe(batch)
        other.observe(batch)
    assert len(half.gradients) == len(full.gradients) == 6 // accumulate
    for a, b in zip(half.gradients[0], full.gradients[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_an_fp16_overflow_skips_the_step():
    recorder = Recorder()
    model = straight()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = StepLR(optimizer, 1, 0.5)
    taught = Learner(model, optimizer, [recorder], precision="fp16", scheduler=scheduler)
    taught._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = flat(model.state_dict()), flat(optimizer.state_dict())
    taught.observe(batches(1)[0])
    assert (flat(model.state_dict()), flat(optimizer.state_dict())) == before
    assert (taught.steps, taught.batches, recorder.gradients) == (0, 1, [])
    assert all(p.grad is None for p in model.parameters())
    assert taught._scaler.get_scale() == 2.0**39
    for batch in batches(40):
        taught.observe(batch)
    assert 0 < taught.steps < 41
    assert len(recorder.gradients) == taught.steps
    assert all(g.isfinite().all() for gradients in recorder.gradients for g in gradients)


def test_training_steps_go_through_compile(monkeypatch):
    compiled = []

    def compile(model):
        compiled.append(model)
        return lambda *inputs, **named: model(*inputs, **named)

    monkeypatch.setattr(torch, "compile", compile)
    model, other = net(), net()
    taught = learner(model, compile=True)
    assert compiled == [model]
    plain = learner(other)
    for batch in batches(3):
        assert torch.equal(taught.observe(batch), plain.observe(batch))
    assert flat(model.state_dict()) == flat(other.state_dict())


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_steps_are_the_same_within_rounding(monkeypatch):
    # The eager backend traces and guards as the others do, without waiting for their code.
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="eager"))
    taught, plain = learner(growing(), compile=True), learner(growing())
    for spec in (TaskSpec(0, (0, 1)), TaskSpec(1, (2, 3))):
        taught.begin_task(spec)
        plain.begin_task(spec)
        for batch in batches(2, classes=spec.classes[-1] + 1):
            torch.testing.assert_close(taught.observe(batch), plain.observe(batch))
        taught.end_task([batch])
        plain.end_task([batch])
    assert list(taught.state_dict()["model"]) == list(plain.state_dict()["model"])


def test_the_global_generators_are_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    taught = learner(growing(), [Noisy(), EWC(1.0), Replay(10), SI(1.0)])
    torch.set_rng_state(before)  # making the model drew
    taught.begin_task(TaskSpec(0, (0, 1, 2, 3)))
    for batch in batches(3):
        taught.observe(batch)
    taught.end_task(batches(2))
    taught.predict(batch.x)
    taught.load_state_dict(taught.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [lambda: [], lambda: [Noisy()], lambda: [Replay(9), DERpp(9)]])
def test_equal_seeds_are_equal_runs(make):
    runs = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        model = net()
        torch.manual_seed(noise)
        taught = learner(model, make(), seed=seed)
        for batch in batches(8):
            taught.observe(batch)
        runs.append(flat(taught.state_dict()["model"]))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_inputs_are_not_modified():
    batch = batches(1)[0]
    before = flat(dict(batch.columns()))
    taught = learner(strategies=[Replay(9), DERpp(9), LwF(), EWC(1.0), SI(1.0)])
    taught.begin_task(0)
    for _ in range(3):
        taught.observe(batch)
    taught.end_task([batch])
    taught.begin_task(1)
    taught.observe(batch)
    taught.predict(batch.x)
    assert flat(dict(batch.columns())) == before


def test_prediction_is_in_eval_mode_and_changes_nothing():
    taught = learner(strategies=[Noisy()])
    for batch in batches(4):
        taught.observe(batch)
    taught.model[1].eval()
    x = torch.randn(50, 6)
    before = whole(taught)
    answer = taught.predict(x)
    assert whole(taught) == before
    assert not answer.requires_grad
    twin = net()
    twin.load_state_dict(taught.model.state_dict())
    twin.eval()
    with torch.no_grad():
        assert torch.equal(answer, twin(x))
    for rows in (1, 7, 49, 50, 1000):
        torch.testing.assert_close(taught.predict(x, rows=rows), answer, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidBatch, match="0 rows"):
        taught.predict(x[:0])


def test_a_failed_prediction_restores_the_modes():
    taught = learner()
    before = whole(taught)
    with pytest.raises(RuntimeError):
        taught.predict(torch.zeros(3, 5))
    assert whole(taught) == before


def test_frozen_normalisation_stays_frozen():
    model = net()
    model[1].eval()
    taught = learner(model)
    before = flat(dict(model[1].named_buffers()))
    for batch in batches(3):
        taught.observe(batch)
    assert not model[1].training
    assert model[3].training
    assert flat(dict(model[1].named_buffers())) == before


def test_a_model_in_eval_mode_is_put_to_training():
    model = net().eval()
    learner(model)
    assert all(module.training for module in model.modules())


class Consolidations(Strategy):
    def __init__(self, passes=2):
        self.passes = passes
        self.rows = []
        self.dropped = []

    def consolidate(self, learner, data):
        for _ in range(self.passes):
            self.rows.append([len(batch) for batch in data])

    def forget(self, keys):
        self.dropped.append(keys.tolist())


def test_the_end_of_a_task_passes_over_its_rows_as_often_as_asked():
    taught = learner(strategies=[Consolidations(), Consolidations(1)])

    class Task:
        id, classes = 0, (0, 1, 2, 3)
        data = tuple(batches(3))

    taught.begin_task(Task())
    assert taught.tasks == [TaskSpec(0, (0, 1, 2, 3))]
    taught.end_task(Task())
    assert [s.rows for s in taught.strategies] == [[[8, 8, 8]] * 2, [[8, 8, 8]]]
    assert taught.current is None
    taught.consolidate(batches(1))
    assert taught.strategies[1].rows[1:] == [[8]]


class Dreaming(Strategy):
    """Goes on learning in its sleep, and wakes with a start."""

    def consolidate(self, learner, data):
        for batch in data:
            learner.output(batch).square().mean().backward()
        with torch.no_grad():
            for parameter in learner.model.parameters():
                parameter -= parameter.grad
        raise RuntimeError("awake")


def test_a_consolidation_that_fails_leaves_the_model_as_it_was():
    taught = learner(strategies=[EWC(1.0), Dreaming()])
    taught.begin_task(0)
    for batch in batches(3):
        taught.observe(batch)
    before = whole(taught)
    with pytest.raises(RuntimeError, match="awake"):
        taught.end_task(batches(3))
    assert whole(taught) == before


def test_wrong_ends_of_tasks_change_nothing():
    taught = learner(strategies=[Consolidations(), Noisy()])
    before = whole(taught)
    with pytest.raises(ValueError, match=r"no task is open; call begin_task\(task\) first"):
        taught.end_task(batches(1))
    assert whole(taught) == before
    taught.begin_task(0)
    taught.observe(batches(1)[0])
    before = whole(taught)
    with pytest.raises(EmptyTask, match="give those that were learned from"):
        taught.end_task([])
    with pytest.raises(ValueError, match=r"data is a generator.*only once; give a list"):
        taught.end_task(batch for batch in batches(3))
    with pytest.raises(InvalidBatch, match="0 rows"):
        taught.end_task([batches(1)[0].rows(slice(0))])
    assert whole(taught) == before
    assert taught.current == 0
    assert taught.strategies[0].rows == []
    taught.end_task(batches(1))


@pytest.mark.parametrize("keys", [torch.tensor([3, 4]), [3, 4], (3, 4)])
def test_every_strategy_is_told_what_to_forget(keys):
    taught = learner(strategies=[Consolidations(), Noisy(), Consolidations()])
    assert taught.forget(keys) == {"Consolidations": 0, "Noisy": 0}
    assert [taught.strategies[i].dropped for i in (0, 2)] == [[[3, 4]], [[3, 4]]]


def test_what_is_forgotten_is_held_nowhere():
    taught = learner(strategies=[Replay(50), DERpp(50)])
    for index, batch in enumerate(batches(5)):
        taught.observe(replace(batch, key=torch.arange(8) + 8 * index))
    assert taught.forget(range(10, 30)) == {"Replay": 20, "DERpp": 20}
    assert taught.forget(range(10, 31)) == {"Replay": 1, "DERpp": 1}
    for strategy in taught.strategies:
        assert sorted(strategy.memory.all()["key"].tolist()) == [*range(10), *range(31, 40)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"precision": "fp8"}, "precision 'fp8'; choose fp32, bf16 or fp16"),
        ({"accumulate": 0}, "accumulate is 0; it must be a whole number, 1 or more"),
        ({"accumulate": -2}, "accumulate is -2"),
        ({"accumulate": 100 / 64}, "accumulate is 1.5625; it must be a whole number"),
        ({"accumulate": "4"}, "accumulate is '4'; it must be a whole number"),
        ({"clip": 0}, "clip is 0; it must be positive, or None"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"clip": "1.0"}, "clip is '1.0'"),
        ({"clip": b"1.5"}, "clip is b'1.5'"),
        ({"clip": 10**400}, "clip is 10000"),
        ({"clip": torch.ones((), device="meta")}, "clip is tensor"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_tied(settings, told):
    noisy = Noisy()
    with pytest.raises(ValueError, match=told):
        learner(strategies=[noisy], **settings)
    assert not hasattr(noisy, "generator")


def test_a_task_must_have_an_id():
    taught = learner()
    with pytest.raises(ValueError, match="task id -1"):
        taught.begin_task(-1)
    assert (taught.tasks, taught.current) == ([], None)


def test_what_has_accumulated_at_the_end_of_a_task_makes_a_step_of_its_own():
    """Three batches of a step of four count in full, and nothing is left for the next task."""
    large, small = net(dropout=0), net(dropout=0)
    for model in (large, small):
        model[1] = nn.Identity()
    three = batches(3)
    whole_batch = Batch.of(torch.cat([b.x for b in three]), torch.cat([b.y for b in three]))
    learner(large).observe(whole_batch)
    taught = learner(small, accumulate=4)
    taught.begin_task(0)
    for batch in three:
        taught.observe(batch)
    assert (taught.pending, taught.steps) == (3, 0)
    taught.end_task(three)
    assert (taught.pending, taught.steps, taught.batches) == (0, 1, 3)
    assert all(p.grad is None for p in small.parameters())
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_last_step_that_is_not_finite_keeps_what_has_accumulated():
    taught = learner(net(dropout=0), accumulate=4)
    taught.begin_task(0)
    taught.observe(batches(1)[0])
    next(iter(taught.parameters.values())).grad.fill_(torch.nan)
    before = flat(taught.state_dict())
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite"):
        taught.end_task(batches(1))
    assert flat(taught.state_dict()) == before
    assert taught.current == 0


def test_an_open_task_does_not_gain_classes_unnoticed():
    taught = learner(growing())
    taught.begin_task(TaskSpec(0, (0, 1)))
    taught.begin_task(TaskSpec(0, (0, 1)))
    taught.begin_task(0)
    with pytest.raises(
        ValueError, match=r"task 0 is open with classes \[0, 1\], not \[0, 2\]; call"
    ):
        taught.begin_task(TaskSpec(0, (0, 2)))


def test_a_failing_consolidation_leaves_the_model_as_it_was():
    class Reckless(Strategy):
        def consolidate(self, learner, data):
            with torch.no_grad():
                for tensor in (*learner.model.parameters(), *learner.model.buffers()):
                    tensor.add_(1)
            if learner.batches:
                raise ValueError("too late")

    taught = learner(strategies=[Reckless()])
    before = {name: value.clone() for name, value in taught.model.state_dict().items()}
    taught.consolidate(batches(1))
    taught.observe(batches(1)[0])
    held = {name: value.clone() for name, value in taught.model.state_dict().items()}
    assert not torch.equal(held["0.weight"], before["0.weight"])
    with pytest.raises(ValueError, match="too late"):
        taught.consolidate(batches(1))
    after = taught.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in held.items())


def test_a_learner_shows_its_parts_and_how_far_it_is():
    taught = learner(strategies=[Replay(5)])
    taught.begin_task(3)
    taught.observe(batches(1)[0])
    assert repr(taught) == (
        "Learner(Sequential of 160 parameters, SGD, [Replay(capacity=5)], tasks [3], 3 open, "
        "1 steps)"
    )


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
def test_rows_that_are_not_finite_are_named_at_the_end_of_a_task(fisher):
    taught = learner(strategies=[EWC(fisher=fisher)])
    taught.begin_task(0)
    good, bad = batches(2)
    taught.observe(good)
    bad.x[5, 0] = torch.nan
    before = whole(taught)
    with pytest.raises(InvalidBatch, match=r"x holds NaN or infinity in 1 of 8 rows \(5\)"):
        taught.end_task([good, bad])
    assert whole(taught) == before
    with torch.no_grad():
        taught.model[4].weight.fill_(torch.inf)
    with pytest.raises(NonFiniteLoss):
        taught.end_task([good])


def test_a_task_told_to_a_model_that_does_not_want_it_changes_nothing():
    taught = learner()
    x = batches(1)[0].x
    assert torch.equal(taught.predict(x, task=3), taught.predict(x))


def test_what_does_not_train_any_more_does_not_go_on_moving():
    model = add_lora(Classifier(MLP(4, hidden=(6,)), GrowingHead(6)), rank=2, sets="summed")
    learner = Learner(model, SGD(model.parameters(), lr=0.1), accumulate=2)
    rows = Batch.of(torch.randn(6, 4), torch.tensor([0, 1] * 3))
    learner.begin_task(TaskSpec(0, (0, 1)))
    for _ in range(3):
        learner.observe(rows)
    learner.end_task([rows])
    learner.begin_task(TaskSpec(1, (0, 1)))
    learner.observe(rows)
    learner.observe(rows)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert any(".pairs.0." in name for name in frozen)
    for _ in range(4):
        learner.observe(rows)
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in frozen.items())
    assert all(p.grad is None for p in model.parameters())


def test_what_begins_to_train_within_a_task_gathers_no_gradients():
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    net[0].requires_grad_(False)
    learner = Learner(net, SGD(net.parameters(), lr=0.1))
    rows = Batch.of(torch.randn(6, 4), torch.tensor([0, 1] * 3))
    learner.observe(rows)
    net[0].requires_grad_(True)
    learner.observe(rows)
    assert all(p.grad is None for p in net.parameters())


def two_tasks(head):
    """A learner of two tasks of two classes each, the second one open."""
    model = TaskClassifier(MLP(6, hidden=(5,)), head(5))
    taught = Learner(model, SGD(model.parameters(), lr=0.1))
    for task in range(2):
        taught.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
        if task == 0:
            taught.observe(Batch.of(torch.rand(4, 6), torch.tensor([0, 1, 0, 1])))
            taught.end_task([Batch.of(torch.rand(1, 6), torch.tensor([0]))])
    return taught


@pytest.mark.parametrize("head", [MultiHead, TaskHeads])
def test_rows_that_do_not_say_their_task_are_the_open_ones(head):
    one, other = two_tasks(head), two_tasks(head)
    other.load_state_dict(one.state_dict())
    x, y = torch.rand(3, 6), torch.tensor([2, 3, 2])
    told = torch.tensor([1, -1, 1])
    assert torch.equal(one.observe(Batch.of(x, y)), other.observe(Batch.of(x, y, 1)))
    assert torch.equal(one.observe(Batch.of(x, y, told)), other.observe(Batch.of(x, y, 1)))
    assert Batch.of(x, y).task.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("head", [MultiHead, TaskHeads])
def test_labels_of_another_task_are_refused_and_nothing_changes(head):
    taught = two_tasks(head)
    before = flat(taught.state_dict())
    y = torch.tensor([2, 0, 1])
    told = r"label 0 in row 1 is none of the classes of task 1.*\(2 rows of 3\)"
    with pytest.raises(LabelOutsideHead, match=told):
        taught.observe(Batch.of(torch.rand(3, 6), y))
    assert flat(taught.state_dict()) == before


def test_rows_of_a_task_that_is_frozen_are_refused():
    model = Packed(TaskClassifier(MLP(6, hidden=(5,)), TaskHeads(5)))
    taught = Learner(model, SGD(model.parameters(), lr=0.1), [PackNet(0.5)])
    batch = Batch.of(torch.rand(4, 6), torch.tensor([0, 1, 0, 1]))
    taught.begin_task(TaskSpec(0, (0, 1)))
    taught.observe(batch)
    taught.end_task([batch])
    taught.begin_task(TaskSpec(1, (2, 3)))
    told = "nothing that trains has a part in the loss of these rows, of task 0"
    with pytest.raises(NothingLeftToLearn, match=told):
        taught.observe(Batch.of(batch.x, batch.y, 0))


def test_a_task_to_predict_for_is_an_id_or_a_tensor():
    taught = learner(net())
    for task in ([0, 1], "0"):
        with pytest.raises(InvalidBatch, match="give an id, an int64 tensor of one id a row"):
            taught.predict(torch.rand(2, 6), task)


def test_strategies_that_wait_for_an_end_that_never_comes_are_named_once(monkeypatch):
    monkeypatch.setattr(learner_module, "WAITED", 3)

    def played(strategies, before=lambda taught: None):
        taught = learner(strategies=strategies)
        before(taught)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for batch in batches(6):
                taught.observe(batch)
        return [str(one.message) for one in said]

    [told] = played([EWC(), Replay(9), Replay(9, fill="task")])
    assert "3 steps with no task begun and nothing consolidated: what EWC, Replay do when" in told
    assert "what EWC does when" in played([EWC(), EWC()])[0]
    assert played([Replay(9), DERpp(9)]) == []
    assert played([EWC()], lambda taught: taught.begin_task(0)) == []
    assert played([EWC()], lambda taught: taught.consolidate(batches(1))) == []
    assert played([EWC()], lambda taught: taught.load_state_dict(taught.state_dict())) == []


def test_a_warning_that_is_made_an_error_leaves_the_learner_as_it_was(monkeypatch):
    monkeypatch.setattr(learner_module, "WAITED", 1)
    taught, batch = learner(strategies=[EWC()]), batches(1)[0]
    with pytest.raises(EmptyTask):
        taught.consolidate([])  # which tells nobody that something has ended
    taught.observe(batch)
    before = whole(taught)
    with pytest.raises(UserWarning, match="1 steps"):
        taught.observe(batch)
    assert whole(taught) == before
    taught.observe(batch)


def test_all_strategies_forget_before_one_that_counts_wrongly_is_named():
    class Wrong(Noisy):
        def forget(self, keys):
            return keys.tolist()

    taught = learner(strategies=[Wrong(), Replay(50)])
    taught.observe(replace(batches(1)[0], key=torch.arange(8)))
    with pytest.raises(TypeError, match=r"Wrong\.forget returned an object of type list"):
        taught.forget([3])
    assert 3 not in taught.strategies[1].memory.all()["key"].tolist()


def test_what_never_trains_is_not_taken_for_ruined_weights():
    for frozen in (torch.full((3, 3), -torch.inf), torch.ones(3, dtype=torch.bool)):
        model = net()
        model.register_parameter("mask", nn.Parameter(frozen, requires_grad=False))
        weights = [p for p in model.parameters() if p.requires_grad]
        taught = Learner(model, SGD(weights, lr=0.1))
        batch = batches(1)[0]
        with pytest.raises(NonFiniteLoss, match=r"as it was before the step$"):
            taught.observe(replace(batch, x=torch.full_like(batch.x, 3e38)))


@pytest.mark.parametrize("lr", [None, lambda step: 0.1])
def test_an_optimizer_may_find_its_rate_by_itself(lr):
    class Own(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": lr})

        def step(self, closure=None):
            del closure

    model = net()
    Learner(model, Own(model.parameters())).observe(batches(1)[0])
