import functools
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from lifelong.core.errors import DatasetError, MissingExtra, UnknownName
from lifelong.streams import DATASETS, datasets, load
from lifelong.streams.sources import Source, cache_folder, fetch

real = pytest.mark.skipif(
    "LIFELONG_DATA" not in os.environ, reason="needs the real files: set LIFELONG_DATA"
)


def idx_files(train=4, test=2):
    def images(rows):
        return struct.pack(">4B3I", 0, 0, 8, 3, rows, 28, 28) + bytes(rows * 784)

    def labels(rows):
        return struct.pack(">4BI", 0, 0, 8, 1, rows) + bytes(i % 10 for i in range(rows))

    made = (images(train), labels(train), images(test), labels(test))
    return {
        name: gzip.compress(content, mtime=0)
        for name, content in zip(datasets.MNIST.files, made, strict=True)
    }


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Let no file of this machine be found, and no download leave it."""
    monkeypatch.delenv("LIFELONG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    for name in ("MNIST", "FASHION_MNIST"):
        closed = replace(getattr(datasets, name), home="http://127.0.0.1:9/")
        monkeypatch.setattr(datasets, name, closed)
    return tmp_path


@pytest.fixture
def server(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (tmp_path / "home").mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / "home")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield tmp_path / "home", f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def source(home, files):
    return Source("mnist", home, {n: hashlib.sha256(c).hexdigest() for n, c in files.items()})


def test_digits_ship_with_scikit_learn():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    data = load("digits")
    assert data.train_x.dtype == torch.uint8
    assert int(data.train_x.max()) == 16
    counts = torch.stack((data.train_y.bincount(), data.test_y.bincount())).float()
    assert (counts[1] / counts.sum(0)).sub(0.2).abs().max() < 0.01
    assert load("digits").test_x.equal(data.test_x)


def test_unknown_names_are_told():
    with pytest.raises(UnknownName, match="unknown data set 'minst'; did you mean 'mnist'"):
        load("minst")
    assert all(row.description for row in DATASETS.values())


def test_order_of_looking(nowhere, monkeypatch):
    put(nowhere / "env" / "mnist", idx_files(train=5))
    monkeypatch.setenv("LIFELONG_DATA", str(nowhere / "env"))
    assert load("mnist").train_x.shape == (5, 1, 28, 28)
    put(nowhere / "given" / "mnist", idx_files(train=6))
    assert len(load("mnist", nowhere / "given").train_y) == 6
    assert len(load("mnist", nowhere / "elsewhere").train_y) == 5
    put(nowhere / "debian", idx_files(train=7))
    assert len(load("fashion-mnist").train_y) == 7


def test_a_missing_file_tells_where_it_looked_and_what_to_set(nowhere):
    pytest.importorskip("pooch", reason="needs pooch")
    with pytest.raises(DatasetError) as caught:
        load("mnist", nowhere / "given")
    for told in (str(nowhere / "given" / "mnist"), "cannot be fetched", "set LIFELONG_DATA"):
        assert told in str(caught.value)
    assert not list((nowhere / "cache").rglob("*.*"))


@pytest.mark.parametrize(
    ("position", "content", "told"),
    [
        (1, struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes(3), "has 4 images, but .* has 3 labels"),
        (1, struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes([11] * 4), "labels up to 11"),
        (0, struct.pack(">4B3I", 0, 0, 8, 3, 4, 2, 2) + bytes(16), r"images of \(2, 2\)"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(nowhere, position, content, told):
    files = idx_files()
    put(nowhere / "mnist", {**files, list(files)[position]: gzip.compress(content)})
    with pytest.raises(DatasetError, match=told):
        load("mnist", nowhere)


def test_downloads_once(nowhere, server, monkeypatch):
    pytest.importorskip("pooch", reason="needs pooch")
    folder, home = server
    files = idx_files()
    put(folder, files)
    monkeypatch.setattr(datasets, "MNIST", source(home, files))
    assert len(load("mnist").train_y) == 4
    for name in files:
        (folder / name).unlink()
    assert len(load("mnist").train_y) == 4
    assert sorted(each.name for each in (cache_folder() / "mnist").iterdir()) == sorted(files)


def test_a_wrong_sum_is_refused_and_leaves_nothing(nowhere, server):
    pytest.importorskip("pooch", reason="needs pooch")
    folder, home = server
    files = idx_files()
    put(folder, {name: content + b"more" for name, content in files.items()})
    with pytest.raises(DatasetError, match="hash"):
        fetch(source(home, files), [])
    assert list((cache_folder() / "mnist").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(nowhere, server):
    pytest.importorskip("pooch", reason="needs pooch")
    folder, home = server
    files = idx_files()
    put(folder, files)
    put(nowhere / "kept" / "mnist", dict.fromkeys(files, b"damaged"))
    found = fetch(source(home, files), [], nowhere / "kept")
    assert {name: (found / name).read_bytes() for name in files} == files


def test_missing_extras_are_named(nowhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtra, match=r"lifelong\[data\]"):
        load("mnist")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"lifelong\[bench\]"):
        load("digits")


def test_importing_streams_brings_no_extra():
    command = (
        "import sys, lifelong.streams; "
        "print({'sklearn', 'pooch', 'PIL', 'pyarrow', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@real
def test_the_real_mnist():
    data = load("mnist")
    assert data.train_x.shape == (60000, 1, 28, 28)
    assert data.test_x.shape == (10000, 1, 28, 28)
    assert data.train_y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
