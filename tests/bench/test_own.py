import json

import numpy as np
import pytest
import torch
from PIL import Image

from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.own import digest, short_name, title_of
from lifelong.bench.suites import resolve
from lifelong.cli import main
from lifelong.core.errors import DatasetError, UnknownName


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """A table in the order of time, of two features; which of them tells the label changes."""
    monkeypatch.chdir(tmp_path)
    chance = np.random.default_rng(0)
    x = chance.normal(size=(400, 2)) * (1, 1000) + (0, 5000)
    late = np.arange(400) >= 200
    up = np.where(late, x[:, 1] > 5000, x[:, 0] > 0)
    lines = [f"{a},{b},{'up' if c else 'down'}" for (a, b), c in zip(x, up, strict=True)]
    path = tmp_path / "orders.csv"
    path.write_text("\n".join(["price,volume,move", *lines]))
    return path


def settled(path, **given):
    return {**resolve(str(path), "replay", {"label": "move", **given}), "seed": 0, "device": "cpu"}


def test_a_table_comes_in_its_order_and_standardised(orders):
    stream = stream_of(settled(orders))
    assert len(stream) == 5
    x = torch.cat([task.train.x for task in stream.tasks])
    assert torch.allclose(x.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x.std(0, correction=0), torch.ones(2), atol=1e-5)
    net = learner_of(settled(orders), stream).model
    assert net(x[:3]).shape == (3, 2)


def test_classes_of_a_table_can_be_dealt_out_too(orders):
    stream = stream_of(settled(orders, scenario="class-incremental", tasks=2))
    assert stream.name.startswith("class-incremental")


def test_a_run_writes_a_report_and_goes_on_only_with_the_same_rows(orders, capsys):
    words = ["run", "orders.csv", "--strategy", "replay", "--set", "label=move"]
    assert main([*words, "--workers", "1"]) == 0
    [result] = json.loads((orders.parent / "runs/orders/results.json").read_text())
    assert result["config"]["content"] == digest(orders)
    assert result["average_accuracy"] > 0.5
    assert "rows of a table in their order" in capsys.readouterr().out
    more = ["--set", "scenario=class-incremental", "tasks=2", "epochs=1", "--out", "two"]
    assert main([*words, "--workers", "1", *more]) == 0
    assert (
        "rows of a table, class-incremental in 2 tasks"
        in (orders.parent / "two/report.html").read_text()
    )
    capsys.readouterr()
    with orders.open("a") as file:
        file.write("\n0,0,up")
    assert main([*words, "--workers", "1"]) == 2
    assert "other settings (content" in capsys.readouterr().err


def test_the_title_is_that_of_the_settings(orders, tmp_path):
    given = {"scenario": "class-incremental", "tasks": 2}
    assert title_of(settled(orders, **given)) == "rows of a table, class-incremental in 2 tasks"
    assert title_of(settled(orders, tasks=3)) == "rows of a table in their order, in 3 stretches"
    told = "images by their folders, domain-incremental in 5 tasks"
    assert title_of(settled(tmp_path, scenario="domain-incremental")) == told
    assert title_of(resolve("digits", "ewc", {"tasks": 2})).startswith("scikit-learn's 8x8 digits")


@pytest.mark.parametrize(
    ("features", "width"), [("volume", 1), (" volume, price", 2), (["price"], 1), ("", 2)]
)
def test_columns_to_learn_from_can_be_named(orders, features, width):
    stream = stream_of(settled(orders, features=features))
    assert stream.tasks[0].train.x.shape[1] == width


def test_a_column_that_is_no_number_can_be_left_out(orders):
    text = orders.read_text().splitlines()
    shops = (f"s{number},{row}" for number, row in enumerate(text[1:]))
    orders.write_text("\n".join([f"shop,{text[0]}", *shops]))
    with pytest.raises(DatasetError, match=r"row 1: 's0'; .*: --set features=COLUMN,COLUMN"):
        stream_of(settled(orders))
    assert stream_of(settled(orders, features="price,volume")).tasks[0].train.x.shape[1] == 2
    with pytest.raises(DatasetError, match="no column size"):
        stream_of(settled(orders, features="size"))
    with pytest.raises(ValueError, match=r"features is '\['; give names with commas"):
        stream_of(settled(orders, features="["))


def test_data_that_change_while_a_run_goes_on_are_noticed(orders):
    config = settled(orders)
    with orders.open("a") as file:
        file.write("\n0,0,up")
    with pytest.raises(DatasetError, match="is not what it was when the run began"):
        stream_of(config)


def test_advice_is_measured_on_a_table(orders, capsys):
    words = ["advise", "--measure", "orders.csv", "--storage", "8KB", "--candidates", "1"]
    more = ["--seeds", "0", "--set", "label=move", "epochs=2", "--workers", "1", "--json"]
    assert main([*words, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["constraints"]["increment"] == "domain"
    assert found["constraints"]["classes"] == 2
    assert "orders.csv" in found["command"]
    assert (orders.parent / "runs/advice-orders/report.html").exists()


def test_images_are_read_from_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        folder = tmp_path / "pics" / f"class {number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), (60 * (number % 4), 0, 0)).save(folder / f"{number}.png")
    config = settled("pics/", size=8, tasks=2)
    stream = stream_of(config)
    assert stream.tasks[0].train.x.shape == (8, 3, 8, 8)
    assert learner_of(config, stream).predict(stream.tasks[0].test.x).shape == (2, 4)


@pytest.mark.parametrize(
    ("path", "given", "error", "told"),
    [
        ("none.csv", {}, DatasetError, "cannot read .*none.csv: No such file"),
        ("orders.csv", {"label": "mov"}, DatasetError, "say which holds the labels: --set label="),
        ("orders.csv", {"content": "0"}, UnknownName, "unknown setting 'content'"),
        ("orders.csv", {"model": "cnn"}, ValueError, "of a table only mlp can learn"),
        ("orders", {}, UnknownName, "unknown suite 'orders'"),
    ],
)
def test_wrong_use_is_refused(orders, path, given, error, told):
    def build():
        config = settled(path, **given)
        learner_of(config, stream_of(config))

    with pytest.raises(error, match=told):
        build()


def test_large_numbers_are_told_apart(tmp_path):
    path = tmp_path / "time.csv"
    rows = "\n".join(f"{1_700_000_000 + n},{'ab'[n % 2]}" for n in range(100))
    path.write_text("second,2\n" + rows)
    stream = stream_of(settled(path, label=2))  # a column may be named by a number
    x = torch.cat([rows.x for task in stream.tasks for rows in (task.train, task.test)])
    assert len(x.unique()) == 100


def test_what_is_read_is_told_by_its_bytes_and_other_files_do_not_count(tmp_path):
    for name, byte in (("a", b"a"), ("b", b"b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.ppm").write_bytes(b"P6 1 1 255 aa" + byte)
    before = digest(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"seen")
    assert digest(tmp_path) == before
    (tmp_path / "a" / "1.ppm").write_bytes(b"P6 1 1 255 aac")
    assert digest(tmp_path) != before


def test_nothing_is_written_among_the_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "./", "--strategy", "si"]) == 2
    assert "lies in ./, which is read; choose another folder with --out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_images_that_are_not_square_say_how_to_resize(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (12, 8)).save(tmp_path / name / f"{number}.png")
    config = settled(f"{tmp_path}/", tasks=1)
    with pytest.raises(ValueError, match="images of 8 x 12; cnn takes square ones: --set size=8"):
        learner_of(config, stream_of(config))


def test_one_class_alone_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("x,kind\n" + "1,a\n2,a\n" * 10)
    (tmp_path / "pics/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "pics/cat/1.png")
    for path, told in (
        ("t.csv", "all 20 rows of .*t.csv are of one class, 'a', .*: --set label=COLUMN"),
        ("pics", "all 1 rows of .*pics are of one class, 'cat', .* for each of two classes"),
    ):
        with pytest.raises(DatasetError, match=told):
            stream_of(settled(tmp_path / path, label="kind"))


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/data/shop/orders.parquet", "orders"),
        ("orders.v2.csv.gz", "orders.v2"),
        ("x/.csv", "own"),
        ("digits", "digits"),
    ],
)
def test_a_short_name_is_one_of_a_folder(path, short):
    assert short_name(path) == short
