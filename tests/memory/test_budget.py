from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.errors import BudgetTooSmall, StateMismatch
from lifelong.memory import POLICIES, Memory, Reservoir
from lifelong.memory.budget import bytes_of, room_for, row_bytes, rows_within


def columns(start: int, stop: int, width: int = 4) -> dict[str, torch.Tensor]:
    key = torch.arange(start, stop)
    return {
        "x": (key[:, None] % 200 + torch.arange(10)).to(torch.uint8),
        "y": key % 5,
        "key": key,
        "logits": key[:, None] + torch.zeros(1, width),
    }


def filled(capacity: str, policy: str = "reservoir", rows: int = 900) -> Memory:
    memory, chance = Memory(capacity, policy), torch.Generator().manual_seed(0)
    for start in range(0, rows, 50):
        offered = columns(start, start + 50)
        memory.add(offered, offered["y"], chance)
    return memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("200KB", 200_000), ("0.5 mb", 500_000), ("2GB", 2 * 10**9), ("1MiB", 2**20)],
)
def test_bytes_are_read_with_their_unit(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["10", "MB", "-1MB", "0KB", "0.1B", "1 TB", "1MB!", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="such as '200KB'"):
        Memory(text)


@given(st.integers(1, 5000), st.integers(1, 9))
def test_as_many_rows_as_fit_and_no_more(budget, width):
    offered = {"x": torch.zeros(3, width, 2), "key": torch.zeros(3, dtype=torch.int64)}
    size = row_bytes(offered)
    assert size == width * 8 + 8
    if budget < size:
        with pytest.raises(BudgetTooSmall, match=f"at least {size} bytes"):
            rows_within(budget, offered)
    else:
        rows = rows_within(budget, offered)
        assert rows * size <= budget < (rows + 1) * size


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_column_counts_towards_the_bytes(policy):
    memory = filled("5KB", policy)
    assert len(memory) == memory.capacity == 5000 // (10 + 8 + 8 + 16)
    assert memory.nbytes <= 5000


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_rows_leave_when_a_column_is_widened(policy):
    memory = filled("5KB", policy)
    before = {int(row["key"]): row for row in rows_of(memory)}
    memory.widen("logits", 10, float("nan"), torch.Generator())
    assert len(memory) == memory.capacity == 5000 // (10 + 8 + 8 + 40)
    assert memory.nbytes <= 5000
    for row in rows_of(memory):
        old = before[int(row["key"])]
        assert torch.equal(row["x"], old["x"])
        assert torch.equal(row["logits"][:4], old["logits"])
    offered = columns(900, 950, 10)
    memory.add(offered, offered["y"], torch.Generator())
    assert memory.nbytes <= 5000


def rows_of(memory: Memory) -> list[dict[str, torch.Tensor]]:
    held = memory.all()
    return [{name: column[i] for name, column in held.items()} for i in range(len(memory))]


@pytest.mark.parametrize("policy", ["balanced", "ring"])
def test_groups_stay_equal_when_rows_leave(policy):
    memory = filled("5KB", policy)
    memory.widen("logits", 10, 0.0, torch.Generator())
    assert set(memory.column("y").bincount().tolist()) == {15}


def test_a_reservoir_that_shrinks_stays_uniform():
    counts = torch.zeros(40)
    for seed in range(1500):
        reservoir, chance = Reservoir(12), torch.Generator().manual_seed(seed)
        keys = torch.full((12,), -1)
        for start in range(0, 40, 10):
            if start == 20:
                gaps, moved = reservoir.shrink(8, chance)
                keys[torch.from_numpy(gaps)] = keys[torch.from_numpy(moved)]
            slots, source = reservoir.place(None, 10, chance)
            source = range(10) if source is None else source.tolist()
            keys[torch.from_numpy(slots)] = torch.tensor(
                [start + row for row in source], dtype=torch.int64
            )
        counts[keys[: reservoir.held]] += 1
    assert reservoir.held == reservoir.capacity == 8
    assert (counts - 300).abs().max() < 5 * (300 * 0.8) ** 0.5


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_every_row_is_held_as_often_as_any_other_when_a_column_has_been_widened(policy):
    counts, seeds = torch.zeros(60), 400
    for seed in range(seeds):
        memory, chance = Memory("320B", policy), torch.Generator().manual_seed(seed)
        for start in range(0, 60, 10):
            if start == 30:  # 20 rows of 16 bytes, and then 10 of 32
                memory.widen("logits", 6, 0.0, chance)
            key = torch.arange(start, start + 10)
            offered = {"key": key, "logits": torch.zeros(10, 2 if start < 30 else 6)}
            memory.add(offered, key % 2, chance)
        counts[memory.column("key")] += 1
    assert counts.sum() == 10 * seeds
    expected = seeds / 6
    assert (counts - expected).abs().max() < 5 * (expected * 5 / 6) ** 0.5


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_state_goes_on_bit_for_bit_and_needs_as_many_bytes(policy):
    memory, twin = filled("5KB", policy), Memory("5KB", policy)
    memory.widen("logits", 6, 0.0, torch.Generator())
    twin.load_state_dict(memory.state_dict())
    for start in (900, 950):
        offered = columns(start, start + 50, 6)
        for one in (memory, twin):
            one.add(offered, offered["y"], torch.Generator().manual_seed(start))
    held, other = memory.all(), twin.all()
    assert all(torch.equal(held[name], other[name]) for name in held)
    for smaller in (Memory("4KB", policy), filled("4KB", policy)):
        before = smaller.state_dict()
        with pytest.raises(StateMismatch, match="give it as many bytes"):
            smaller.load_state_dict(memory.state_dict())
        assert str(smaller.state_dict()) == str(before)


def test_too_few_bytes_for_the_classes_are_refused_with_the_way_out():
    offered = columns(0, 9)
    with pytest.raises(BudgetTooSmall, match=r"2 rows of 42 bytes.*5 classes.*at least 210"):
        Memory("100B").check(offered, groups=5)
    with pytest.raises(BudgetTooSmall, match="at least 210"):
        Memory("100B").add(offered, offered["y"], torch.Generator())
    with pytest.raises(ValueError, match="name it"):
        Memory("100B", Reservoir(3))


@pytest.mark.parametrize("capacity", [2.5, True, None, "500"])
def test_a_capacity_in_rows_is_a_whole_number(capacity):
    with pytest.raises(
        ValueError, match=r"capacity (is )?.*; give a (whole )?number of rows \(500\)"
    ):
        Memory(capacity)
    assert Memory(np.int64(3)).capacity == 3


@pytest.mark.parametrize("capacity", [10**18, 10**30])
def test_more_rows_than_there_is_room_for_are_refused_at_once(capacity):
    with pytest.raises(BudgetTooSmall, match=f"no room here for {capacity} rows of 8 bytes"):
        Memory(capacity)


def test_rows_too_large_for_the_machine_are_explained():
    memory = Memory(10**6)
    wide = torch.zeros(2, 1, dtype=torch.uint8).expand(2, 10**12)
    with pytest.raises(BudgetTooSmall, match=r"1000000 rows of 1000000000000 bytes \(1e\+09 GB\)"):
        memory.add({"x": wide}, None, torch.Generator())
    assert len(memory) == 0


def test_other_errors_are_not_taken_for_a_lack_of_room():
    with pytest.raises(ValueError, match=r"^of another kind"), room_for(3):
        raise ValueError("of another kind")


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("batches", [3, 4, 5, 6, 7, 8])
def test_shrinking_a_little_leaves_policy_and_rows_of_one_size(policy, batches):
    memory, chance = Memory("5000B", policy), torch.Generator().manual_seed(0)
    for start in range(0, 50 * batches, 50):
        offered = columns(start, start + 50)
        memory.add(offered, torch.zeros_like(offered["y"]), chance)
    for width in (5, 6, 7):
        memory.widen("logits", width, 0.0, chance)
        assert len(memory) == memory.capacity == memory.policy.capacity
        assert memory.capacity == 5000 // (10 + 8 + 8 + 4 * width)
        assert memory.nbytes <= 5000
        offered = columns(900, 950, width)
        memory.add(offered, torch.zeros_like(offered["y"]), chance)


def test_a_column_that_cannot_be_widened_leaves_all_rows():
    memory = filled("260B", "balanced")  # six rows
    before = memory.state_dict()
    for name, width in (("logits", 2), ("other", 9), ("logits", 100)):
        with pytest.raises((ValueError, BudgetTooSmall)):
            memory.widen(name, width, 0.0, torch.Generator())
        assert str(memory.state_dict()) == str(before)


def test_a_check_counts_a_column_that_will_be_wider():
    memory = filled("260B", "balanced")
    memory.check({"logits": torch.zeros(1, 10)}, groups=3, wider="logits")
    with pytest.raises(BudgetTooSmall, match="at least 330"):
        memory.check({"logits": torch.zeros(1, 10)}, groups=5, wider="logits")


ACTS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 30)),
    st.tuples(st.just("forget"), st.integers(1, 9)),
    st.tuples(st.just("widen"), st.integers(1, 4)),
)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(deadline=None, max_examples=30)
@given(st.lists(ACTS, max_size=8), st.integers(1, 4), st.sampled_from([None, "int8"]))
def test_rows_that_are_not_held_leave_no_byte(policy, acts, groups, store):
    memory = Memory("3KB", policy, store=store)
    for _ in lived(memory, acts, groups):
        expect_only_held(memory)
    assert len(memory) == 0


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_rows_that_are_not_held_leave_no_byte_in_files(policy, tmp_path):
    memory = Memory("3KB", policy, path=tmp_path)
    for _ in lived(memory, [], 2):
        expect_only_held(memory)
        held = memory.column("key").tolist()
        for file in tmp_path.iterdir():
            kind = {"key": np.int64, "mark": np.int32}.get(file.stem, np.float32)
            found = np.fromfile(file, kind)
            assert {int(key) for key in found if key > 0} == set(held)


def lived(memory: Memory, acts: list[tuple[str, int]], groups: int) -> Iterator[None]:
    """Add, forget and widen, and forget everything at the end."""
    offered, width, chance = 0, 1, torch.Generator()
    for act, count in [("add", 80), ("forget", 3), *acts, ("widen", 5), ("forget", 1)]:
        if act == "add":
            memory.add(*marked(offered, offered + count, width, groups), chance)
            offered += count
        elif act == "widen":
            width += count
            memory.widen("logits", width, float("nan"), chance)
        else:
            memory.forget(memory.column("key")[::count])
        yield


def expect_only_held(memory: Memory) -> None:
    held = set(memory.column("key").tolist())
    assert memory._rows is not None
    for name, column in memory._rows.columns.items():
        if name in ("key", "mark", "logits"):
            assert {int(key) for key in column.flatten() if key > 0} == held
        else:
            assert int(column.flatten(1).any(1).sum()) <= len(held)


def marked(
    start: int, stop: int, width: int, groups: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Make rows whose id, from 1 on, can be told from several of their columns."""
    key = torch.arange(start, stop) + 1
    logits = key[:, None].float().expand(-1, width)
    x = key[:, None] * torch.ones(6)
    return {"x": x, "mark": key.to(torch.int32), "key": key, "logits": logits}, key % groups


@pytest.mark.parametrize("capacity", ["1000000GB", 10**12])
def test_what_the_machine_has_no_room_for_is_found_before_rows_are_added(capacity):
    with pytest.raises(BudgetTooSmall, match="no room here for"):
        Memory(capacity).check({"x": torch.zeros(2, 1000), "y": torch.zeros(2).long()})
