from copy import deepcopy

import pytest
import torch

from lifelong.core.errors import InvalidBatch, StateMismatch, UnknownName
from lifelong.memory import CODECS, POLICIES, Bytes, Int8, Jpeg, Memory


def columns(start: int, stop: int, images: bool = False) -> dict[str, torch.Tensor]:
    key = torch.arange(start, stop)
    x = (key[:, None] * 37 + torch.arange(192)) % 101 / 100
    if images:
        x = (key[:, None].float() + torch.arange(192) % 64).to(torch.uint8).view(-1, 3, 8, 8)
    return {"x": x, "y": key % 3, "key": key}


def filled(store: str, **place) -> Memory:
    memory, chance = Memory(20, store=store, **place), torch.Generator().manual_seed(0)
    for start in range(0, 90, 30):
        memory.add(columns(start, start + 30, store == "jpeg"), None, chance)
    return memory


@pytest.mark.parametrize("store", sorted(CODECS))
def test_rows_come_back_near_to_what_they_were_in_fewer_bytes(store):
    memory = filled(store)
    held = memory.all()
    for key, x in zip(held["key"].tolist(), held["x"], strict=True):
        like = columns(key, key + 1, store == "jpeg")["x"][0]
        assert (x.dtype, x.shape) == (like.dtype, like.shape)
        assert (x.float() - like.float()).abs().max() < (12 if store == "jpeg" else 0.005)
    plain = Memory(20)
    plain.add(columns(0, 20, store == "jpeg"), None, torch.Generator())
    assert memory.nbytes < 0.6 * plain.nbytes
    drawn = memory.draw(3, torch.Generator())
    same = held["x"][[held["key"].tolist().index(k) for k in drawn["key"].tolist()]]
    assert torch.equal(drawn["x"], same)


@pytest.mark.parametrize("store", sorted(CODECS))
def test_a_state_holds_rows_as_they_are_stored_and_loads_bit_for_bit(store, tmp_path):
    memory = filled(store)
    state = memory.state_dict()
    for twin in (Memory(20, store=store), Memory(20, store=store, path=tmp_path), filled(store)):
        twin.load_state_dict(state)
        for one in (memory, twin):
            one.add(columns(90, 99, store == "jpeg"), None, torch.Generator().manual_seed(5))
        assert str(twin.state_dict()) == str(memory.state_dict())
        assert torch.equal(twin.all()["x"], memory.all()["x"])
        memory.load_state_dict(state)
    again = deepcopy(memory)
    assert torch.equal(again.all()["x"], memory.all()["x"])


def test_erasing_does_not_code_rows_anew():
    memory = filled("jpeg")
    before = dict(zip(memory.column("key").tolist(), memory.column("x"), strict=True))
    memory.forget(memory.column("key")[:7])
    held = zip(memory.column("key").tolist(), memory.column("x"), strict=True)
    assert len(memory) == 13
    assert all(torch.equal(before[key], x) for key, x in held)
    assert not memory._rows.columns["x"][13:].any()


def test_named_inputs_are_stored_smaller_where_that_fits():
    memory = Memory("2KB", store=Bytes(-1, 1))
    offered = {
        "x/age": torch.linspace(-1, 1, 9)[:, None].repeat(1, 20),
        "x/id": torch.arange(9),
        "y": torch.linspace(5, 9, 9),
    }
    memory.add(offered, None, torch.Generator())
    assert memory.capacity == 2000 // (20 + 8 + 4)
    assert (memory.all()["x/age"] - offered["x/age"]).abs().max() < 0.005
    assert torch.equal(memory.all()["y"], offered["y"])


def test_overwriting_encodes():
    memory = Memory(4, store="int8")
    memory.add(columns(0, 4), None, torch.Generator())
    memory.write(torch.tensor([2]), {"x": columns(7, 8)["x"]})
    assert (memory.all()["x"][2] - columns(7, 8)["x"][0]).abs().max() < 0.005
    assert memory.column("key").tolist() == [0, 1, 2, 3]


def test_wrong_use_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'int8'"):
        Memory(4, store="int")
    with pytest.raises(InvalidBatch, match=r"cannot be stored as 'int8': x is torch\.uint8"):
        Memory(4, store="int8").add(columns(0, 4, images=True), None, torch.Generator())
    memory = Memory(4, store=Int8())
    memory.add(columns(0, 4), None, torch.Generator())
    for wrong in ({"x": torch.zeros(2, 5)}, {"x": torch.zeros(2, 192).double()}):
        with pytest.raises(InvalidBatch, match="column 'x'"):
            memory.check(wrong)
    with pytest.raises(InvalidBatch, match="differ in rows"):
        memory.check({"x": torch.zeros(2, 192), "key": torch.arange(3)})
    with pytest.raises(ValueError, match="cannot be widened"):
        memory.widen("x", 999, 0.0, torch.Generator())
    state = memory.state_dict()
    damaged = [
        {**state, "given": {"x": "float32 7"}},
        {**state, "given": {"x": "cat 192"}},
        {name: part for name, part in state.items() if name != "given"},
    ]
    for wrong in damaged:
        with pytest.raises(StateMismatch):
            Memory(4, store="int8").load_state_dict(wrong)
    with pytest.raises(StateMismatch):
        Memory(4).load_state_dict(state)


def states_equal(one: dict, other: dict) -> bool:
    return str(one) == str(other)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("store", ["uint8", "jpeg"])
@pytest.mark.parametrize("capacity", [40, "4KB"])
def test_rows_that_cannot_be_stored_change_nothing(policy, store, capacity):
    codec = Jpeg(share=0.14) if store == "jpeg" else store
    memory, chance = Memory(capacity, policy, store=codec), torch.Generator().manual_seed(0)
    noise = torch.randint(2, (30, 3, 8, 8), generator=chance, dtype=torch.uint8) * 255
    bad = columns(30, 60, store == "jpeg")
    bad["x"] = noise if store == "jpeg" else bad["x"] * 2
    good = [columns(start, start + 30, store == "jpeg") for start in (0, 30, 60)]
    for rows in good:
        before = memory.state_dict(), memory.capacity, chance.get_state()
        for _ in range(2):
            with pytest.raises(InvalidBatch, match=r"outside of 0 to 1|poorest JPEG"):
                memory.add(bad, bad["y"], chance)
        assert states_equal(memory.state_dict(), before[0])
        assert memory.capacity == before[1]
        assert torch.equal(chance.get_state(), before[2])
        memory.add(rows, rows["y"], chance)
        held = memory.all()
        like = {int(k): x for part in good for k, x in zip(part["key"], part["x"], strict=True)}
        for key, x in zip(held["key"].tolist(), held["x"], strict=True):
            assert (x.float() - like[key].float()).abs().max() < (30 if store == "jpeg" else 0.005)


@pytest.mark.parametrize(
    ("store", "bad", "told"),
    [
        ("uint8", 1.5, "outside of 0 to 1"),
        ("uint8", float("nan"), "outside of 0 to 1"),
        ("int8", float("inf"), "NaN or infinite"),
        ("fp16", 1e6, "65504"),
    ],
)
def test_a_check_looks_at_values_before_and_after_the_first_rows(store, bad, told):
    memory = Memory(20, store=store)
    wrong = columns(0, 5)
    wrong["x"] = torch.full_like(wrong["x"], bad)
    for _ in range(2):
        memory.check(columns(0, 5))
        with pytest.raises(InvalidBatch, match=told):
            memory.check(wrong)
        memory.add(columns(0, 30), None, torch.Generator())
    with pytest.raises(InvalidBatch, match="cannot be stored as 'jpeg'"):
        Memory(20, store="jpeg").check(columns(0, 5))


@pytest.mark.parametrize(
    ("saved", "other"), [(Bytes(-1, 1), Bytes()), ("int8", "uint8"), (Jpeg(0.5), Jpeg(0.505))]
)
@pytest.mark.parametrize("capacity", [20, "10KB"])
def test_a_state_of_another_codec_or_range_is_refused(saved, other, capacity):
    memory = Memory(capacity, store=saved)
    memory.add(columns(0, 30, isinstance(saved, Jpeg)), None, torch.Generator())
    for rows in (columns(0, 9, isinstance(saved, Jpeg)), None):
        twin = Memory(capacity, store=other)
        if rows:
            twin.add(rows, None, torch.Generator())
        before = twin.state_dict()
        with pytest.raises(StateMismatch, match="store"):
            twin.load_state_dict(memory.state_dict())
        assert states_equal(twin.state_dict(), before)
    same = Memory(capacity, store=saved)
    same.load_state_dict(memory.state_dict())
    assert torch.equal(same.all()["x"], memory.all()["x"])


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("store", [None, "jpeg"])
def test_refilling_keeps_rows_as_they_are_stored(policy, store):
    memory, chance = Memory(20, policy, store=store), torch.Generator().manual_seed(0)
    first = columns(0, 20, images=True)
    memory.add(first, first["y"], chance)
    keep = torch.tensor([7, 3, 12])
    before = {name: memory.column(name)[keep] for name in first}
    more = columns(50, 60, images=True)
    memory.refill(more, torch.cat((before["y"], more["y"])), chance, keep)
    slot_of = {key: slot for slot, key in enumerate(memory.column("key").tolist())}
    assert sorted(slot_of) == sorted([*before["key"].tolist(), *more["key"].tolist()])
    slots = [slot_of[key] for key in before["key"].tolist()]
    for name, column in before.items():
        assert torch.equal(memory.column(name)[slots], column)
    state = memory.state_dict()
    for wrong, stay in ((columns(0, 3), keep), (more, torch.tensor([13]))):
        with pytest.raises((InvalidBatch, ValueError)):
            memory.refill(wrong, None, chance, stay)
    assert states_equal(memory.state_dict(), state)
