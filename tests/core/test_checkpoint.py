import hashlib
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifelong.core import checkpoint
from lifelong.core.checkpoint import load, save
from lifelong.core.errors import CheckpointError

STATE = {
    "model": {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.zeros(2)},
    "steps": 7,
    "rate": 0.1,
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "seen": torch.tensor([True, False, True]),
    "names": ["a", None, "é"],
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.contiguous().view(-1).view(torch.uint8).tolist()
            == b.contiguous().view(-1).view(torch.uint8).tolist()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b or (a != a and b != b)


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64),
    *(torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    bits = torch.randint(256, (math.prod(shape) * dtype.itemsize,), generator=chance)
    bits = bits % 2 if dtype == torch.bool else bits
    made = bits.to(torch.uint8).view(dtype).view(shape)
    return made.transpose(0, -1) if made.ndim > 1 and draw(st.booleans()) else made


KEYS = st.text(max_size=4) | st.sampled_from(["$tensor", "$dict", "$float", "a/b", "__metadata__"])
LEAVES = tensors() | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
STATES = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(KEYS, parts, max_size=3)
        | st.dictionaries(st.integers() | KEYS | st.tuples(st.integers()), parts, max_size=3)
    ),
    max_leaves=8,
)


@given(state=STATES)
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_state_comes_back_as_it_was(tmp_path, state):
    save(tmp_path / "state", state)
    assert same(load(tmp_path / "state"), state)


def test_tensors_whose_paths_look_alike_are_kept_apart(tmp_path):
    state = {
        "a/b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "c": {1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)},
    }
    save(tmp_path / "s", state)
    assert same(load(tmp_path / "s"), state)


def test_parameters_with_gradients_come_back_as_tensors(tmp_path):
    save(tmp_path / "s", {"w": torch.nn.Parameter(torch.ones(2, 2)).t()})
    loaded = load(tmp_path / "s")["w"]
    assert type(loaded) is torch.Tensor
    assert not loaded.requires_grad


def test_the_file_is_a_safetensors_file(tmp_path):
    state = {**STATE, "empty": torch.zeros(0, 3), "scalar": torch.tensor(3, dtype=torch.int8)}
    save(tmp_path / "s.safetensors", state)
    read = safetensors.torch.load_file(tmp_path / "s.safetensors")
    assert torch.equal(read["/model/0.weight"], state["model"]["0.weight"])
    assert torch.equal(read["/half"], state["half"])
    assert read["/scalar"].item() == 3
    assert read["/empty"].shape == (0, 3)
    assert len(read) == 6


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "/a/1/b: object cannot be saved; a state holds tensors"),
        ({1, 2}, "/a/1/b: set cannot be saved"),
        (print, "/a/1/b: builtin_function_or_method"),
        (b"x", "/a/1/b: bytes"),
        (torch.zeros(2, dtype=torch.complex64), "/a/1/b: a tensor of torch.complex64"),
        (torch.zeros(2, 2).to_sparse(), "/a/1/b: .*torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "/a/1/b: .* on meta"),
    ],
)
def test_what_cannot_be_saved_is_named_by_its_path(tmp_path, value, told):
    save(tmp_path / "s", STATE)
    with pytest.raises(CheckpointError, match=told):
        save(tmp_path / "s", {"a": [0, {"b": value}]})
    assert same(load(tmp_path / "s"), STATE)
    assert os.listdir(tmp_path) == ["s"]


def test_a_state_without_end_is_refused(tmp_path):
    endless = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="too deep"):
        save(tmp_path / "s", endless)


def test_what_could_not_be_read_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MOST_HEADER", 1000)
    with pytest.raises(CheckpointError, match="keep them in tensors"):
        save(tmp_path / "s", list(range(1000)))
    assert os.listdir(tmp_path) == []


def test_every_altered_byte_is_noticed(tmp_path):
    path = tmp_path / "s"
    save(path, STATE)
    whole = path.read_bytes()
    chance = random.Random(0)
    for at in range(len(whole)):
        # The header is where the format is decided: all of it, and every bit of its length.
        flips = [1 << bit for bit in range(8)] if at < 8 else [chance.randrange(1, 256)]
        for flip in flips:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            with pytest.raises(CheckpointError):
                load(path)


def test_every_shorter_or_longer_file_is_refused(tmp_path):
    path = tmp_path / "s"
    save(path, STATE)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(path)
    path.write_bytes(whole + b" ")
    with pytest.raises(CheckpointError, match="bytes follow its end"):
        load(path)


def test_padding_cannot_move_between_header_and_data(tmp_path):
    # Header and data are hashed as one run of bytes, so where one ends must be certain otherwise.
    path = tmp_path / "s"
    save(path, {"pad": "x", "t": torch.full((16,), ord(" "), dtype=torch.uint8)})
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for shift in range(-4, 17):
        path.write_bytes((length + shift).to_bytes(8, "little") + whole[8:])
        if shift:
            with pytest.raises(CheckpointError):
                load(path)
        else:
            load(path)


def forged(path, entries=None, data=b"", tree=None, raw=None, **metadata):
    """Write a file whose SHA-256 is right, so that only what it says can be wrong."""
    known = {
        "format": "lifelong-checkpoint",
        "schema": "1",
        "sha256": "0" * 64,
        "state": json.dumps({"a": 1}) if tree is None else tree,
    }
    header = raw or json.dumps({"__metadata__": {**known, **metadata}, **(entries or {})}).encode()
    digest = hashlib.sha256(header + data).hexdigest().encode()
    header = header.replace(b"0" * 64, digest, 1)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def entry(shape=(1,), place=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


def test_the_forger_of_these_tests_can_make_a_true_file(tmp_path):
    forged(tmp_path / "s", {"/a": entry()}, bytes(4), '{"a": {"$tensor": "/a"}}')
    assert same(load(tmp_path / "s"), {"a": torch.zeros(1)})


@pytest.mark.parametrize(
    ("forgery", "told"),
    [
        ({"schema": "2"}, "newer schema 2; this version of lifelong reads 1"),
        ({"schema": "0"}, "older schema 0"),
        ({"schema": "one"}, "not a checkpoint"),
        ({"schema": None}, "not a checkpoint"),
        ({"format": "other"}, "not a checkpoint"),
        ({"sha256": "0" * 63}, "not a checkpoint"),
        ({"sha256": "\ud800" * 64}, "not a checkpoint"),
        ({"sha256": ["0"] * 64}, "not a checkpoint"),
        ({"tree": "{"}, "tree cannot be read"),
        ({"tree": '{"$tensor": "/gone"}'}, "tree cannot be read"),
        ({"tree": '{"$tensor": ["/gone"]}'}, "tree cannot be read"),
        ({"tree": '{"$float": "many"}'}, "tree cannot be read"),
        ({"tree": '{"$dict": [[1]]}'}, "tree cannot be read"),
        ({"tree": '{"$dict": 3}'}, "tree cannot be read"),
        ({"tree": "[" * 100_000}, "tree cannot be read"),
        ({"state": None}, "tree cannot be read"),
        ({"raw": b"[]"}, "not a checkpoint"),
        ({"raw": b"{}"}, "not a checkpoint"),
        ({"raw": b"[" * 100_000}, "not a checkpoint"),
        ({"raw": b'{"__metadata__": []}'}, "not a checkpoint"),
        ({"raw": b"\xff\xfe\x00\x00"}, "not a checkpoint"),
        ({"entries": {"/a": entry([10**15], [0, 4 * 10**15])}}, "truncated"),
        ({"entries": {"/a": entry([10**15], [0, 4])}, "data": bytes(4)}, "not where it should be"),
        ({"entries": {"/a": entry([10**15], [0, 0])}}, "not where it should be"),
        ({"entries": {"/a": entry([10**30], [0, 4 * 10**30])}}, "truncated"),
        ({"entries": {"/a": entry([-1])}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": entry([1.0])}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": entry([True])}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": entry(dtype="F8")}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": entry(dtype=["F32"])}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": entry(place=[0])}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": entry(place=[-4, 0])}, "data": bytes(4)}, "ill-described"),
        ({"entries": {"/a": 3}}, "ill-described"),
        ({"entries": {"/a": {"dtype": "F32"}}}, "ill-described"),
        ({"entries": {"__a": None}}, "ill-described"),
        ({"entries": {"/a": entry(), "/b": entry()}, "data": bytes(4)}, "not where"),
        ({"entries": {"/a": entry(), "/b": entry(place=[8, 12])}, "data": bytes(12)}, "not where"),
        ({"entries": {"/a": entry(place=[4, 8])}, "data": bytes(8)}, "not where"),
        ({"entries": {"/a": entry()}, "data": bytes(8)}, "bytes follow"),
        ({"entries": {"/a": entry()}, "data": bytes(3)}, "truncated"),
    ],
)
def test_a_header_is_believed_in_nothing(tmp_path, forgery, told):
    forged(tmp_path / "s", **forgery)
    with pytest.raises(CheckpointError, match=told):
        load(tmp_path / "s")


def test_a_claimed_shape_takes_no_memory(tmp_path, monkeypatch):
    forged(tmp_path / "s", {"/a": entry([2**33], [0, 2**35])}, bytes(8))
    monkeypatch.setattr(torch, "empty", lambda *a, **k: pytest.fail(f"allocates {a}"))
    with pytest.raises(CheckpointError):
        load(tmp_path / "s")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "s"
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"):
        load(path)
    with pytest.raises(CheckpointError, match=r"cannot read .*directory"):
        load(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
        load(path)
    safetensors.torch.save_file({"a": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
        load(path)
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
        load(path)
    for foreign in (b"", b"PK", b"hello world, this is text", bytes(64), b"\xff" * 64):
        path.write_bytes(foreign)
        with pytest.raises(CheckpointError, match=f"not a checkpoint.*{len(foreign)} bytes"):
            load(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "s"
    save(path, STATE)

    def refuse(*names):
        raise PermissionError(13, "Permission denied")

    for part in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, part, refuse)
            with pytest.raises(
                CheckpointError, match=r"Permission denied; it needs \d+ bytes there"
            ):
                save(path, {"other": 1})
        assert same(load(path), STATE)
        assert os.listdir(tmp_path) == ["s"]


def test_an_interrupted_save_leaves_nothing_behind(tmp_path, monkeypatch):
    save(tmp_path / "s", STATE)

    def interrupt(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "s", {"t": torch.zeros(3)})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["s"]
    assert same(load(tmp_path / "s"), STATE)


def test_where_nothing_can_be_written_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no folder .*no; make it first"):
        save(tmp_path / "no" / "such", STATE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*folder"):
        save(tmp_path / "folder", STATE)
    with pytest.raises(CheckpointError, match="names no file"):
        save("", STATE)
    for path in (None, 3):
        with pytest.raises(CheckpointError, match=f"path is {path}; give the name of a file"):
            save(path, STATE)
        with pytest.raises(CheckpointError, match=f"path is {path}; give the name of a file"):
            load(path)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "s"
    save(path, STATE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*it needs 400,256 bytes there"):
            save(path, {"big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["s"]
    assert same(load(path), STATE)


SAVER = """
import sys, torch
from lifelong.core.checkpoint import save
step = 0
while True:
    save(sys.argv[1], {"step": step, "rows": torch.full((300_000,), step)})
    print(step, flush=True)
    step += 1
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    path = tmp_path / "s"
    chance = random.Random(0)
    for _ in range(3):
        saver = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAVER), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with saver:
            saver.stdout.readline()  # one is whole
            drain = threading.Thread(target=saver.stdout.read)
            drain.start()
            time.sleep(chance.uniform(0, 0.03))
            saver.send_signal(signal.SIGKILL)
            drain.join()
        state = load(path)
        assert state["rows"].eq(state["step"]).all()
        save(path, STATE)  # and the next process is not in the way of what that one left
        assert same(load(path), STATE)


def test_one_element_of_any_stride_is_saved(tmp_path):
    one = torch.tensor([5, 7]).as_strided((1,), (0,), 1)
    checkpoint.save(tmp_path / "one", {"slots": one})
    assert checkpoint.load(tmp_path / "one")["slots"].tolist() == [7]
