import gzip

import pytest
import torch

from lifelong.core.errors import DatasetError
from lifelong.streams import class_incremental, table

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")

COLUMNS = {
    "row": list(range(20)),
    "half": [i / 2 for i in range(20)],
    "flag": [i % 2 == 0 for i in range(20)],
    "kind": ["cat", "dog"] * 10,
}


def written(path, columns):
    from pyarrow import csv, parquet

    made = pyarrow.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(made, path)
    elif path.suffix == ".gz":
        with pyarrow.CompressedOutputStream(str(path), "gzip") as file:
            csv.write_csv(made, file)
    else:
        csv.write_csv(made, path)
    return path


@pytest.mark.parametrize("name", ["pets.csv", "pets.csv.gz", "pets.parquet"])
def test_reads_each_format(tmp_path, name):
    data = table(written(tmp_path / name, COLUMNS), "kind", test=0.2)
    assert data.name == "pets"
    assert data.class_names == ("cat", "dog")
    assert data.train_x.dtype == torch.float32
    assert data.train_x.shape == (16, 3)
    assert data.test_y.bincount().tolist() == [2, 2]
    assert data.train_x[:, 0].diff().gt(0).all(), "rows stay in order"
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert x[:, 1].equal(x[:, 0] / 2)
        assert x[:, 2].equal(1 - y.float())
    assert len(class_incremental(data, 2)) == 2


def test_the_last_rows_can_be_the_test(tmp_path):
    data = table(written(tmp_path / "t.csv", COLUMNS), "kind", features=["row"], split="last")
    assert data.train_x.flatten().tolist() == list(range(16))
    assert data.test_x.flatten().tolist() == [16, 17, 18, 19]


def test_integer_labels_are_sorted_as_numbers(tmp_path):
    columns = {"x": [0.0] * 4, "y": [10, 9, 10, 2]}
    assert table(written(tmp_path / "t.parquet", columns), "y", test=0).class_names == (
        "2",
        "9",
        "10",
    )


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        ({"name": ["x"] * 20}, {}, "column 'name' of .* is string, not numeric, in its 20 rows"),
        ({"half": [None, None, *[1.0] * 18]}, {}, "'half' .* in 2 of 20 rows"),
        ({"half": [float("nan"), *[1.0] * 19]}, {}, "'half' .* in 1 of 20 rows"),
        ({"half": [float("inf"), 1e300, *[1.0] * 18]}, {}, "'half' .* in 2 of 20 rows"),
        ({"kind": [None, *["cat"] * 19]}, {}, "label 'kind' .* is missing in 1 of 20"),
        (
            {"kind": ["cat"] * 4 + [None] + ["dog"] * 15},
            {},
            "1 of 20 rows, first in row 5 below",
        ),
        (
            {"kind": ["cat", "", " ", *["dog"] * 17]},
            {},
            "2 of 20 rows, first in row 2",
        ),
        ({"kind": [0.5] * 20}, {}, "its values are no classes"),
        ({}, {"label": "sort"}, "no column sort; its columns are"),
        ({}, {"features": ["row", "size"]}, "no column size"),
        ({}, {"features": []}, "no column of features"),
    ],
)
def test_refuses_what_cannot_be_learned_from(tmp_path, change, arguments, told):
    path = written(tmp_path / "t.parquet", {**COLUMNS, **change})
    with pytest.raises(DatasetError, match=told):
        table(path, **{"label": "kind", **arguments})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_columns_may_be_separated_by_semicolons_or_tabs(tmp_path, separator, name):
    text = "x,y,kind\n1,2.5,a\n3,4,b\n".replace(",", separator).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    data = table(tmp_path / name, "kind", test=0)
    assert data.train_x.tolist() == [[1, 2.5], [3, 4]]
    assert data.class_names == ("a", "b")


def test_the_first_cell_that_is_no_number_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;kind\n1;a\n2,5;b\n")
    with pytest.raises(DatasetError, match=r"'x' of .* as in row 2: '2,5'; leave it out of `feat"):
        table(path, "kind")
    path.write_text("x,kind\n1,a\n,b\n")
    with pytest.raises(DatasetError, match="in 1 of 2 rows, first in row 2: nan; fill them"):
        table(path, "kind")


def test_an_empty_cell_of_a_csv_is_no_class(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,kind\n1,cat\n2,dog\n3,\n4,cat\n")
    with pytest.raises(DatasetError, match=r"label 'kind' of .* in 1 of 4 rows, first in row 3"):
        table(path, "kind")


def test_refuses_damaged_files(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "empty.csv").write_text("a,kind\n")
    (tmp_path / "t.xlsx").write_bytes(b"")
    for name, told in (
        ("t.parquet", "cannot be read"),
        ("t.csv", "cannot be read"),
        ("none.csv", "cannot be read"),
        ("empty.csv", "has no rows"),
        ("t.xlsx", "neither"),
    ):
        with pytest.raises(DatasetError, match=told):
            table(tmp_path / name, "kind")
    with pytest.raises(ValueError, match="split is 'first'"):
        table(tmp_path / "t.csv", "kind", split="first")
    with pytest.raises(ValueError, match="test is 1"):
        table(tmp_path / "t.csv", "kind", test=1)


def test_standardised_by_its_training_rows_before_it_becomes_float32(tmp_path):
    seconds = [1_700_000_000 + n for n in range(8)] + [1_700_000_100, 1_700_000_200]
    columns = {"second": seconds, "same": [0.1] * 8 + [0.1, 5.1], "kind": ["a", "b"] * 5}
    path = written(tmp_path / "t.parquet", columns)
    data = table(path, "kind", test=0.2, split="last", standardise=True)
    assert data.train_x.dtype == data.test_x.dtype == torch.float32
    expected = (torch.arange(8.0) - 3.5) / 5.25**0.5
    torch.testing.assert_close(data.train_x[:, 0], expected)
    torch.testing.assert_close(data.test_x[:, 0], (torch.tensor([100.0, 200]) - 3.5) / 5.25**0.5)
    assert torch.equal(data.train_x[:, 1], torch.zeros(8))
    torch.testing.assert_close(data.test_x[:, 1], torch.tensor([0.0, 5.0]))
