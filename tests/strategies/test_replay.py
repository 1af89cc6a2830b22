import pytest
import torch
from strategy_models import Capture, batches_of, learn, learner_of
from torch import nn
from torch.nn import functional as F

from lifelong import (
    AGEM,
    DER,
    EEIL,
    GEM,
    Batch,
    BiC,
    Exemplars,
    GDumb,
    Learner,
    Replay,
    Sleep,
    Steady,
    TaskSpec,
)
from lifelong.core.errors import BudgetTooSmall, InvalidBatch, UnknownName


def test_the_loss_is_the_mean_over_new_and_replayed_rows():
    replay, seen = Replay(50), Capture()
    learner = learner_of([replay, seen])
    batches = batches_of(6)
    learner.begin_task(0)
    learner.observe(batches[0])
    assert len(seen.batches[-1]) == 6  # the memory was empty
    for batch in batches[1:]:
        loss = learner.observe(batch)
        whole, output = seen.batches[-1], seen.outputs[-1]
        assert (len(whole), whole.new, whole.weight) == (12, 6, None)
        rows = [F.cross_entropy(output[i : i + 1], whole.y[i : i + 1]) for i in range(12)]
        torch.testing.assert_close(loss, sum(rows) / 12)


def test_new_rows_come_first_and_replayed_ones_are_rows_of_the_past():
    replay, seen = Replay(50, rows=4), Capture()
    learner = learner_of([replay, seen])
    learner.begin_task(0)
    batches = batches_of(5)
    past: dict[int, tuple] = {}
    for batch in batches:
        learner.observe(batch)
        whole = seen.batches[-1]
        assert torch.equal(whole.x[:6], batch.x)
        assert torch.equal(whole.key[:6], batch.key)
        for i in range(6, len(whole)):
            x, y = past[int(whole.key[i])]
            assert torch.equal(whole.x[i], x)
            assert whole.y[i] == y
        past |= {int(k): (x, y) for k, x, y in zip(batch.key, batch.x, batch.y, strict=True)}
    assert len(seen.batches[-1]) == 10


def test_the_memory_holds_the_new_rows_with_all_their_columns():
    replay = Replay(100)
    learner = learner_of(replay)
    batches = batches_of(4, task=3)
    learn(learner, 3, batches)
    held = replay.memory.all()
    assert held.keys() == {"x", "y", "task", "key"}
    assert held["key"].tolist() == [int(k) for batch in batches for k in batch.key]
    assert torch.equal(held["x"], torch.cat([batch.x for batch in batches]))
    assert held["task"].tolist() == [3] * 24


@pytest.mark.parametrize(("by", "column"), [("class", "y"), ("task", "task")])
@pytest.mark.parametrize("policy", ["ring", "balanced"])
def test_the_room_is_shared_among_classes_or_tasks(by, column, policy):
    replay = Replay(12, policy=policy, by=by)
    learner = learner_of(replay)
    for task, classes in enumerate(((0, 1, 2, 3), (0, 0, 0, 1, 2, 3), (0, 0, 0, 0, 1, 2, 3))):
        learn(learner, task, batches_of(6, rows=12, classes=classes, task=task))
    counts = replay.memory.all()[column].unique(return_counts=True)[1]
    assert counts.tolist() == ([3] * 4 if by == "class" else [4] * 3)


def test_the_ring_holds_the_latest_rows():
    replay = Replay(9, policy="ring", by="task")
    learner = learner_of(replay)
    learn(learner, 0, batches_of(4))
    assert sorted(replay.memory.all()["key"].tolist()) == list(range(15, 24))


def test_a_memory_on_disk_learns_as_one_in_memory_does(tmp_path):
    losses = []
    for path in (None, tmp_path / "rows"):
        learner = learner_of(Replay(10, path=path))
        losses.append(torch.stack([learner.observe(batch) for batch in batches_of(6)]))
    assert torch.equal(*losses)
    assert list((tmp_path / "rows").iterdir())


def test_forgotten_rows_are_not_replayed():
    replay, seen = Replay(100), Capture()
    learner = learner_of([replay, seen])
    batches = batches_of(6)
    for batch in batches[:3]:
        learner.observe(batch)
    gone = torch.cat([batch.key[:4] for batch in batches[:3]])
    learner.forget(gone)
    assert len(replay.memory) == 6
    seen.batches.clear()
    for batch in batches[3:]:
        learner.observe(batch)
    assert not any(torch.isin(batch.key, gone).any() for batch in seen.batches)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"capacity": 0}, "capacity 0"),
        ({"capacity": -5}, "capacity -5"),
        ({"rows": 0}, "rows is 0"),
        ({"by": "label"}, "by is 'label'"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=told):
        Replay(**settings)


def test_an_unknown_policy_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match="'reservor'; did you mean 'reservoir'"):
        Replay(10, policy="reservor")


@pytest.mark.parametrize(
    ("strategy", "first", "then"),
    [
        (Replay(10), (torch.rand(4, 3), [0, 1, 0, 1]), (torch.rand(4, 3).double(), [0, 1, 0, 1])),
        (Replay(10), (torch.rand(4, 3), [0, 1, 0, 1]), (torch.rand(4, 3, 1), [0, 1, 0, 1])),
        (Replay(10, policy="balanced"), None, (torch.rand(4, 3), [0.0, 1.0, 0.0, 1.0])),
    ],
)
def test_rows_that_cannot_be_kept_are_refused_before_the_step(strategy, first, then):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x.float().flatten(1))

    torch.manual_seed(0)
    net = Cast()
    loss = {"loss": lambda output, y: output.sum(1) * y}
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), [strategy], **loss)
    if first is not None:
        learner.observe(Batch.of(first[0], torch.tensor(first[1])))
    before = learner.state_dict()
    with pytest.raises(InvalidBatch):
        learner.observe(Batch.of(then[0], torch.tensor(then[1])))
    after = learner.state_dict()
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())
    assert after["batches"] == before["batches"]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_rows_are_replayed_with_every_so_many_th_batch(every):
    learner = learner_of([Replay(50, every=every), seen := Capture()])
    for batch in batches_of(9):
        learner.observe(batch)
    assert [len(batch) for batch in seen.batches[every:]] == [
        12 if number % every == 0 else 6 for number in range(every + 1, 10)
    ]


def test_replay_comes_once_in_a_step_that_accumulates_as_many_batches():
    learner = learner_of([Replay(50, every=3), seen := Capture()], accumulate=3)
    for batch in batches_of(9):
        learner.observe(batch)
    assert [len(batch) for batch in seen.batches] == [6, 6, 12, 6, 6, 12, 6, 6, 12]


def test_rows_that_cannot_be_kept_are_refused_with_every_batch():
    learner = learner_of(Replay(50, every=9))
    learner.observe(batches_of(1)[0])
    with pytest.raises(InvalidBatch, match="column 'x'"):
        learner.observe(Batch.of(torch.zeros(2, 3, 1), torch.tensor([0, 1])))


@pytest.mark.parametrize("store", ["uint8", "int8", "fp16"])
def test_values_that_cannot_be_stored_are_refused_before_the_step(store):
    learner = learner_of(Replay(20, store=store))
    good, bad = Batch.of(torch.rand(8, 3), torch.zeros(8).long()), torch.full((8, 3), 1e9)
    bad[0, 0] = torch.inf
    for batches in (0, 1):
        before = learner.state_dict()
        with pytest.raises(InvalidBatch, match="store"):
            learner.observe(Batch.of(bad, torch.zeros(8).long()))
        assert str(learner.state_dict()) == str(before)
        assert learner.batches == batches
        learner.observe(good)


def test_inputs_that_a_codec_is_not_for_are_refused_before_the_first_step():
    learner = learner_of(Replay(20, store="jpeg"))
    with pytest.raises(InvalidBatch, match="cannot be stored as 'jpeg'"):
        learner.observe(batches_of(1)[0])
    assert learner.steps == 0


def test_classes_are_counted_once_a_task_and_not_looked_for_in_every_batch(monkeypatch):
    strategy, asked = Replay("2KB"), []
    unique = torch.unique
    monkeypatch.setattr(
        "lifelong.strategies.replay.torch.unique",
        lambda *a, **k: asked.append(1) or unique(*a, **k),
    )
    learner = learner_of(strategy)
    for batch in batches_of(5):
        learner.observe(batch)
    assert len(asked) <= 2  # for the check, and for the room, of the first batch
    room = strategy.memory.capacity
    learner.begin_task(TaskSpec(0, tuple(range(room))))
    learner.observe(batches_of(1)[0])
    learner.end_task(batches_of(1))
    learner.begin_task(TaskSpec(1, (room,)))
    with pytest.raises(BudgetTooSmall, match=f"{room + 1} classes"):
        learner.observe(batches_of(1)[0])


def test_filled_at_the_end_of_tasks_it_replays_earlier_tasks_alone():
    replay, seen = Replay(20, fill="task"), Capture()
    learner = learner_of([replay, seen])
    for task in range(3):
        batches = batches_of(5, task=task)
        learner.begin_task(task)
        for batch in batches:
            learner.observe(batch)
            old = seen.batches[-1].task[6:].tolist()
            assert len(old) == (6 if task else 0)
            assert set(old) <= set(range(task))
        before = replay.memory.seen
        learner.end_task(batches)
        assert replay.memory.seen == before + 30


@pytest.mark.parametrize("fill", ["step", "task"])
def test_either_way_every_row_is_offered_once(fill):
    replay = Replay(100, fill=fill)
    learner = learner_of(replay)
    batches = batches_of(4)
    learn(learner, 0, batches)
    assert replay.memory.all()["key"].tolist() == [int(k) for b in batches for k in b.key]


def test_a_consolidation_that_fails_leaves_a_memory_filled_at_the_end_as_it_was():
    replay = Replay(20, fill="task")
    learner = learner_of(replay)
    batches = batches_of(3)
    learn(learner, 0, batches)
    before = replay.memory.all()
    learner.begin_task(1)
    torn = Batch.of(torch.zeros(2, 9), torch.zeros(2, dtype=torch.int64), task=1)
    with pytest.raises(InvalidBatch, match="must be"):
        learner.end_task([*batches_of(2, task=1), torn])
    held = replay.memory.all()
    assert all(torch.equal(before[name], held[name]) for name in before)


def test_when_rows_enter_is_refused_where_it_is_unknown_or_not_to_be_chosen():
    with pytest.raises(UnknownName, match="task"):
        Replay(20, fill="tasks")
    with pytest.raises(ValueError, match="GDumb itself says when rows enter its memory"):
        GDumb(20, fill="task")


@pytest.mark.parametrize("store", [None, "fp16"])
def test_rows_are_replayed_as_they_were_however_large_they_are(store):
    """Large rows are gathered straight behind the new ones, small ones joined to them."""
    chance = torch.Generator().manual_seed(0)
    for width in (3, 500):
        seen, replay = Capture(), Replay(100, rows=4, store=store)
        learner = learner_of([replay, seen], lambda size=width: nn.Linear(size, 4))
        past: dict[int, torch.Tensor] = {}
        for start in range(0, 30, 6):
            x = torch.randint(8, (6, width), generator=chance).float()
            batch = Batch.of(x, torch.arange(6) % 4, key=torch.arange(start, start + 6))
            learner.observe(batch)
            whole = seen.batches[-1]
            assert torch.equal(whole.x[:6], x)
            for i in range(6, len(whole)):
                assert torch.equal(whole.x[i], past[int(whole.key[i])])
            past |= {int(k): row for k, row in zip(batch.key, x, strict=True)}
        assert len(whole) == 10


BUDGETS = {
    "sleep": (lambda: Sleep("250B"), ()),
    "told fewer classes": (lambda: Replay("250B"), (0, 1)),
    "by task": (lambda: Replay("250B", by="task"), None),
    "bic": (lambda: BiC("2000B", validation=0.1), (0, 1)),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_bytes_that_do_not_hold_a_row_of_each_group_are_refused_before_the_step(name):
    make, told = BUDGETS[name]
    torch.manual_seed(0)
    net = nn.Linear(6, 10)
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), [make()])
    if told:
        learner.begin_task(TaskSpec(0, told))
    before = net.weight.detach().clone()
    task = torch.arange(10) if told is None else 0
    with pytest.raises(BudgetTooSmall, match="too few for 10 classes or tasks"):
        learner.observe(Batch.of(torch.randn(10, 6), torch.arange(10), task))
    assert learner.steps == 0
    assert torch.equal(net.weight, before)


def test_rows_held_out_find_room_though_they_come_later_than_others():
    net = nn.Linear(6, 10)
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), [BiC("4KB")])
    learner.observe(Batch.of(torch.randn(1, 6), torch.tensor([0]), key=torch.tensor([1])))
    assert learner.strategies[0].aside.nbytes == 0
    x, y = torch.randn(60, 6), torch.arange(60) % 10
    with pytest.raises(BudgetTooSmall, match="too few for 10 classes"):
        learner.observe(Batch.of(x, y, key=torch.arange(60)))
    assert learner.steps == 1


FEW = {
    "balanced": lambda: Replay(3, policy="balanced"),
    "ring": lambda: Replay(3, policy="ring"),
    "by task": lambda: Replay(1, policy="balanced", by="task"),
    "der": lambda: DER(3, policy="balanced"),
    "eeil": lambda: EEIL(3, epochs=1),
    "gdumb": lambda: GDumb(3, epochs=1),
    "sleep": lambda: Sleep(3, steps=1),
    "steady": lambda: Steady(3),
    "exemplars": lambda: Exemplars(3),
    "gem": lambda: GEM(1),
    "agem": lambda: AGEM(1),
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", FEW)
def test_fewer_rows_than_groups_that_share_them_are_refused(name, told):
    learner = learner_of(FEW[name]())
    tasks = [batches_of(2, classes=c, task=t) for t, c in enumerate(((0, 1), (2, 3)))]
    learn(learner, 0, tasks[0], (0, 1) if told else ())
    held = learner.strategies[0].memory.all()["key"]
    at_end = name == "exemplars" and not told
    with pytest.raises(BudgetTooSmall, match=r"at least [24] rows"):
        learn(learner, 1, tasks[1], (2, 3) if told else ())
    assert learner.steps == (4 if at_end else 2)
    assert torch.equal(learner.strategies[0].memory.all()["key"], held)


def test_a_reservoir_needs_no_row_of_each_class():
    learner = learner_of(Replay(3))
    learn(learner, 0, batches_of(3), (0, 1, 2, 3))
    assert len(learner.strategies[0].memory) == 3
