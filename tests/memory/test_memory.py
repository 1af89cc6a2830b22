from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, StateMismatch, UnknownName
from lifelong.memory import POLICIES, Memory, Ring


def columns(start: int, stop: int) -> dict[str, Tensor]:
    key = torch.arange(start, stop)
    return {
        "x/image": (key[:, None] * 7 % 251 + torch.arange(6)).to(torch.uint8).view(-1, 2, 3),
        "x/age": key * 0.5,
        "y": key % 3,
        "key": key,
    }


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.allclose(
            one, other, rtol=0, atol=0, equal_nan=True
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def filled(policy: str = "reservoir", capacity: int = 20, **place: Any) -> Memory:
    memory, chance = Memory(capacity, policy, **place), generator()
    for start in range(0, 90, 30):
        offered = columns(start, start + 30)
        memory.add(offered, offered["y"], chance)
    return memory


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_rows_held_were_offered_and_are_whole(policy: str) -> None:
    memory = filled(policy)
    held = memory.all()
    assert len(memory) == 20
    assert memory.seen == 90
    assert len(set(held["key"].tolist())) == 20
    for key in held["key"].tolist():
        row = {name: column[held["key"] == key] for name, column in held.items()}
        assert same(row, columns(key, key + 1))
    assert memory.nbytes == 20 * (6 + 4 + 8 + 8)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_files_equal_memory_bit_for_bit(policy: str, tmp_path: Path) -> None:
    here, there = filled(policy), filled(policy, path=tmp_path)
    for memory in (here, there):
        memory.forget(torch.arange(60, 75))
        memory.add(columns(90, 100), columns(90, 100)["y"], generator(4))
    assert same(here.state_dict(), there.state_dict())
    assert same(here.draw(5, generator()), there.draw(5, generator()))


def test_draws_are_uniform_without_repeats() -> None:
    memory, chance, counts = filled(capacity=50), generator(), torch.zeros(90)
    for _ in range(1500):
        keys = memory.draw(5, chance)["key"]
        assert len(set(keys.tolist())) == 5
        counts[keys] += 1
    counts = counts[memory.all()["key"]]
    assert len(counts) == 50
    assert ((counts - 150) ** 2 / 150).sum() < 85  # p = 0.001 at 49 degrees of freedom
    assert sorted(memory.draw(99, chance)["key"].tolist()) == sorted(memory.all()["key"].tolist())
    assert len(memory.draw(0, chance)["key"]) == 0
    assert Memory(3).draw(2, chance) == {}
    assert Memory(3).all() == {}


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_forgetting_leaves_no_byte(policy: str, on_disk: bool, tmp_path: Path) -> None:
    memory, chance = Memory(40, policy, path=tmp_path if on_disk else None), generator()
    marks = torch.randint(1, 256, (30, 16), dtype=torch.uint8, generator=chance)
    memory.add({"x": marks, "key": torch.arange(1000, 1030)}, torch.arange(30) % 3, chance)
    erased = [1000, 1003, 1011, 1028, 1029]
    assert memory.forget(torch.tensor([*erased, 5, -1])) == len(erased)
    assert memory.forget(torch.tensor(erased)) == 0
    kept = set(range(1000, 1030)) - set(erased)
    assert set(memory.all()["key"].tolist()) == kept
    assert memory._rows is not None
    raw = b"".join(bytes(c.numpy().tobytes()) for c in memory._rows.columns.values())
    raw += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    raw += b"".join(bytes(c.numpy().tobytes()) for c in memory.state_dict()["columns"].values())
    for key in range(1000, 1030):
        assert (marks[key - 1000].numpy().tobytes() in raw) == (key in kept)
    memory.add({"x": marks[:9], "key": torch.arange(9)}, torch.zeros(9, dtype=torch.int64), chance)
    assert len(memory) == 34
    memory.forget(memory.all()["key"])
    assert len(memory) == 0
    assert not any(column.any() for column in memory._rows.columns.values())
    assert len(memory.draw(3, chance)["x"]) == 0


def test_rows_without_ids_are_not_forgotten() -> None:
    memory = Memory(3)
    memory.add({"key": torch.tensor([-1, 4])}, None, generator())
    assert memory.forget(torch.tensor([-1])) == 0
    assert Memory(3).forget(torch.tensor([1])) == 0
    unnamed = Memory(3)
    unnamed.add({"x": torch.zeros(1)}, None, generator())
    with pytest.raises(ValueError, match='column "key"'):
        unnamed.forget(torch.tensor([1]))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 30),
    st.lists(st.integers(1, 25), min_size=1, max_size=8),
    st.integers(0, 7),
    st.booleans(),
)
def test_resuming_is_the_same_bit_for_bit(
    policy: str, capacity: int, batches: list[int], stop: int, erase: bool
) -> None:
    whole, resumed = Memory(capacity, policy), Memory(capacity, policy)
    chances = generator(), generator()
    start = 0
    for number, rows in enumerate(batches):
        offered = columns(start, start + rows)
        for memory, chance in zip((whole, resumed), chances, strict=True):
            memory.add(offered, offered["y"], chance)
            if erase:
                memory.forget(torch.arange(start, start + rows, 4))
        start += rows
        if number == stop:
            state, resumed = resumed.state_dict(), Memory(capacity, policy)
            resumed.load_state_dict(state)
        assert same(*(m.draw(4, c) for m, c in zip((whole, resumed), chances, strict=True)))
    assert same(whole.state_dict(), resumed.state_dict())
    assert len(whole) <= capacity
    assert whole.seen == start
    keys = whole.all()["key"].tolist()
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(range(start))


def test_states_are_plain_and_apart_from_the_memory(tmp_path: Path) -> None:
    memory = filled("balanced")
    state = memory.state_dict()
    before = deepcopy(state)
    torch.save(state, tmp_path / "state.pt")
    assert same(torch.load(tmp_path / "state.pt", weights_only=True), before)
    twin = Memory(20, "balanced")
    twin.load_state_dict(state)
    for each in (memory, twin):
        each.add(columns(90, 120), columns(90, 120)["y"], generator())
        each.forget(torch.arange(60))
    assert same(state, before)


@pytest.mark.parametrize("on_disk", [False, True])
def test_states_that_do_not_fit_change_nothing(on_disk: bool, tmp_path: Path) -> None:
    memory = filled(path=tmp_path if on_disk else None)
    good = memory.state_dict()
    rows = good["columns"]
    damaged: list[Any] = [
        {**good, "capacity": 21},
        {**good, "policy": "ring"},
        {**good, "policy_state": {}},
        {**good, "policy_state": {"capacity": 20, "held": 19, "seen": 90}},
        {**good, "seen": 19},
        {**good, "seen": "90"},
        {**good, "more": 0},
        {**good, "columns": {}},
        {**good, "columns": {**rows, "y": rows["y"][1:]}},
        {**good, "columns": {**rows, "y": rows["y"].int()}},
        {**good, "columns": {**rows, "y": rows["y"].tolist()}},
        {**good, "columns": {name: c for name, c in rows.items() if name != "y"}},
        {**good, "columns": {**rows, "x/image": rows["x/image"].view(20, 6)}},
        [],
    ]
    for state in damaged:
        with pytest.raises(StateMismatch):
            memory.load_state_dict(state)
        assert same(memory.state_dict(), good)
    memory.add(columns(90, 95), None, generator())
    assert not (tmp_path / "loading").exists()
    with pytest.raises(StateMismatch, match="make the memory with capacity=20"):
        Memory(30).load_state_dict(good)


def test_loading_into_files(tmp_path: Path) -> None:
    state = filled().state_dict()
    memory = filled("reservoir", path=tmp_path)
    memory.add(columns(200, 290), None, generator(7))
    memory.load_state_dict(state)
    assert same(memory.state_dict(), state)
    memory.load_state_dict(Memory(20).state_dict())
    assert len(memory) == 0


def test_loading_goes_back_to_before_a_column_was_widened() -> None:
    memory = Memory(4)
    memory.widen("logits", 3, fill=0, generator=generator())
    memory.add({"logits": torch.ones(2, 2)}, None, generator())
    state = memory.state_dict()
    memory.widen("logits", 3, fill=-1, generator=generator())
    assert memory.all()["logits"].tolist() == [[1, 1, -1]] * 2
    memory.write(torch.tensor([1]), {"logits": torch.full((1, 3), 5.0)})
    assert memory.read(torch.tensor([1]))["logits"].tolist() == [[5, 5, 5]]
    memory.load_state_dict(state)
    assert memory.all()["logits"].tolist() == [[1, 1]] * 2


def test_refused_rows_change_nothing() -> None:
    memory = Memory(20, Ring(20, groups=3))
    with pytest.raises(InvalidBatch, match="integers"):
        memory.add(columns(0, 4), torch.zeros(4), generator())
    assert memory.all() == {}
    memory.add(columns(0, 30), columns(0, 30)["y"], generator())
    before = memory.state_dict()
    for offered, group in (
        (columns(0, 4), torch.tensor([0, 1, 2, 3])),
        (columns(0, 4), torch.tensor([0])),
        ({**columns(0, 4), "y": torch.zeros(4)}, None),
        ({**columns(0, 4), "y": torch.zeros(5, dtype=torch.int64)}, None),
        ({"y": torch.zeros(5, dtype=torch.int64)}, None),
    ):
        with pytest.raises(InvalidBatch):
            memory.add(offered, group, generator())
        assert same(memory.state_dict(), before)


def test_batches_go_in_as_their_columns() -> None:
    memory = Memory(5)
    batch = Batch.of({"a": torch.rand(3, 2), "b": torch.zeros(3)}, torch.tensor([0, 1, 0]), task=1)
    memory.add(dict(batch.columns()), batch.task, generator())
    assert sorted(memory.all()) == ["key", "task", "x/a", "x/b", "y"]
    assert torch.equal(memory.all()["x/a"], batch.x["a"])  # type: ignore[index]


def test_copies_are_independent() -> None:
    memory = filled()
    twin, before = deepcopy(memory), memory.state_dict()
    twin.add(columns(90, 190), None, generator())
    assert same(memory.state_dict(), before)
    assert not same(twin.state_dict(), before)


def test_no_use_of_global_chance() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    filled("balanced").draw(3, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="capacity 0; it must be at least 1"):
        Memory(0)
    with pytest.raises(UnknownName, match="did you mean 'ring'"):
        Memory(3, "rings")
    with pytest.raises(ValueError, match="for 4 rows in a memory for 3"):
        Memory(3, Ring(4))
    with pytest.raises(ValueError, match="device cuda"):
        Memory(3, device="cuda", path=tmp_path)
    memory = filled()
    with pytest.raises(ValueError, match="-1 rows"):
        memory.draw(-1, generator())
    with pytest.raises(ValueError, match="between 0 and 19"):
        memory.read(torch.tensor([20]))
    with pytest.raises(InvalidBatch, match="logits"):
        memory.write(torch.tensor([0]), {"logits": torch.zeros(1, 2)})


def test_several_draws_at_once_are_the_draws_one_after_the_other():
    memory = Memory(50)
    memory.add({"y": torch.arange(50)}, None, torch.Generator())
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    twice = memory.draw(20, one, times=2)["y"]
    assert twice.tolist() == [*memory.draw(20, other)["y"], *memory.draw(20, other)["y"]]
    assert len(set(twice[:20].tolist())) == len(set(twice[20:].tolist())) == 20
