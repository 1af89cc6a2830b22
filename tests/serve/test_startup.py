import socket

import pytest

from lifelong.core.errors import ConfigError
from lifelong.serve import startup
from lifelong.serve.config import Config

MODEL = """
import torch
from torch.optim import SGD
from lifelong import Learner
from lifelong.nets import MLP, Classifier, GrowingHead

def seeded():
    torch.manual_seed(0)
    net = MLP(4, hidden=(8,), outputs=3)
    return Learner(net, SGD(net.parameters(), lr=0.1))

def growing():
    torch.manual_seed(0)
    net = Classifier(MLP(4, hidden=(8,)), GrowingHead(8))
    return Learner(net, SGD(net.parameters(), lr=0.1))

def unseeded():
    net = MLP(4, hidden=(8,), outputs=3)
    return Learner(net, SGD(net.parameters(), lr=0.1))

def model():
    return MLP(4, hidden=(8,), outputs=3)

def broken():
    return 1 / 0
"""


def config(folder, function="seeded", schema="{shape: [4], classes: 3}"):
    (folder / "model.py").write_text(MODEL)
    path = folder / "service.yaml"
    path.write_text(f"{{learner: model.py:{function}, schema: {schema}}}")
    return Config.read(path)


def test_a_learner_that_fits_is_made_with_its_classes(tmp_path):
    for function in ("seeded", "growing"):
        learner = startup.checked_learner(config(tmp_path, function))
        assert [task.classes for task in learner.tasks] == [(0, 1, 2)]


@pytest.mark.parametrize(
    ("function", "schema", "message"),
    [
        ("unseeded", "{shape: [4], classes: 3}", "begin it with torch.manual_seed"),
        ("model", "{shape: [4], classes: 3}", "returns MLP; it must return a lifelong.Learner"),
        ("broken", "{shape: [4], classes: 3}", "fails: ZeroDivisionError"),
        ("seeded", "{shape: [5], classes: 3}", r"does not take rows of schema.shape \[5\]"),
        ("seeded", "{shape: [4], classes: 2}", r"gives \(1, 3\) for a row.* must give \(1, 2\)"),
    ],
)
def test_a_learner_that_does_not_fit_is_refused(tmp_path, function, schema, message):
    with pytest.raises(ConfigError, match=message):
        startup.checked_learner(config(tmp_path, function, schema))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == [
        "model.py", "service.yaml"
    ]  # fmt: skip


def test_an_address_that_cannot_be_listened_on_is_refused():
    startup.check_address("127.0.0.1", 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1: it is taken; choose"):
            startup.check_address("127.0.0.1", port)
    startup.check_address("localhost", port)
    with pytest.raises(ConfigError, match="an address of this machine"):
        startup.check_address("192.0.2.1", port)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "service").touch()
    with pytest.raises(ConfigError, match=r"cannot make the folder .*; give another"):
        startup.make_folder(config(tmp_path))
