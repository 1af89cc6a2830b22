import json
import os

import pytest
import torch

from lifelong.core.errors import DatasetError
from lifelong.streams import class_incremental, load
from lifelong.streams.clinc import clinc150_parts


def put(folder, **changed):
    folder.mkdir(parents=True)
    domains = {"bank": ["pay", "owe"], "trip": ["fly", "stay"]}
    rows = [[f"{name} ü {n}", name] for name in ("stay", "fly", "owe", "pay") for n in range(3)]
    data = {"train": rows, "val": rows[:4], "test": rows[::2], "oos_train": [["?", "oos"]]}
    (folder / "data_full.json").write_text(json.dumps({**data, **changed}), "utf-8")
    (folder / "domains.json").write_text(json.dumps(domains), "utf-8")


def test_texts_come_as_bytes_and_classes_in_the_order_of_domains(tmp_path):
    put(tmp_path / "clinc150")
    data = load("clinc150", tmp_path)
    assert list(data.class_names) == ["pay", "owe", "fly", "stay"]
    assert data.train_x.dtype == torch.uint8
    assert bytes(data.train_x[0].tolist()).rstrip(b"\0").decode() == "stay ü 0"
    assert data.train_y.tolist() == [3] * 3 + [2] * 3 + [1] * 3 + [0] * 3
    assert len(data.test_y) == 6
    tasks = class_incremental(data, tasks=2).tasks
    assert [task.classes for task in tasks] == [(0, 1), (2, 3)]
    parts, _ = clinc150_parts(tmp_path)
    assert parts["val"][0][3] == "fly ü 0"


def test_damaged_files_are_refused(tmp_path):
    put(tmp_path / "clinc150", train=[["x", "no such intent"]])
    with pytest.raises(DatasetError, match="KeyError: 'no such intent'"):
        load("clinc150", tmp_path)
    (tmp_path / "clinc150" / "data_full.json").write_text("{")
    with pytest.raises(DatasetError, match="fetch them again"):
        load("clinc150", tmp_path)


@pytest.mark.skipif("LIFELONG_DATA" not in os.environ, reason="needs the real files")
def test_the_real_files():
    data = load("clinc150")
    assert data.train_x.shape == (15000, 136)
    assert torch.bincount(data.train_y).tolist() == [100] * 150
    assert torch.bincount(data.test_y).tolist() == [30] * 150
