"""Labelled rows from CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifelong.core.errors import DatasetError, MissingExtra
from lifelong.streams.labelled import Labelled, divided

_FIRST = 2**16
"""Bytes at the beginning of a CSV in which its first line is looked for."""


def table(
    path: str | Path,
    label: str,
    *,
    features: Sequence[str] | None = None,
    test: float = 0.2,
    split: str = "random",
    seed: int = 0,
    name: str | None = None,
    standardise: bool = False,
) -> Labelled:
    """Read numeric features as float32 (rows, features), and classes from a column of labels.

    The classes are the distinct labels, sorted; rows stay in the file's order.

    Args:
        path: a `.csv` (also gzipped: `.csv.gz`) or `.parquet` file. Commas separate the columns of
            a CSV, or semicolons or tabs where its first line has no comma.
        label: the column of labels: text, integers or booleans.
        features: the columns to learn from, if not all others.
        test: the share of rows to test on, rounded down.
        split: "random" sets that share of each class aside by the seed; "last" takes the last
            rows of the file, for rows in the order of time.
        seed: of the choice.
        name: of the data set, if not the file's.
        standardise: take from each feature its mean over the training rows, and divide by its
            deviation there, before it becomes float32 (which cannot tell large numbers apart).

    Raises:
        DatasetError: the file is missing, damaged or of another kind, a column is missing or not
            numeric, values are missing, NaN or infinite, or labels are missing or blank.
        MissingExtra: pyarrow is not installed.
        ValueError: `split` or `test` is none of these.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "prices.csv"
        ...     _ = path.write_text("price,demand,move\\n" + "1,2,up\\n3,4,down\\n" * 5)
        ...     data = table(path, label="move", test=0.2)
        >>> data.class_names, data.train_x.shape, sorted(data.test_y.tolist())
        (('down', 'up'), torch.Size([8, 2]), [0, 1])
    """
    path = Path(path)
    if split not in ("random", "last"):
        raise ValueError(f"split is {split!r}; it must be 'random' or 'last'")
    if not 0 <= test < 1:
        raise ValueError(f"test is {test}; it must be 0 or more, and less than 1")
    columns = _read(path)
    names = columns.column_names
    if features is None:
        features = [each for each in names if each != label]
    lacking = [each for each in (label, *features) if each not in names]
    if lacking or not features:
        raise DatasetError(
            f"{path} has no column {', '.join(lacking) or 'of features'}; its columns are {names}"
        )
    if not columns.num_rows:
        raise DatasetError(f"{path} has no rows")
    x = torch.from_numpy(np.stack([_numbers(path, each, columns[each]) for each in features], 1))
    classes, y = _classes(path, label, columns[label])
    title = path.name.split(".")[0] if name is None else name
    if split == "random":
        found = divided(title, x, y, classes, test=test, seed=seed)
    else:
        end = len(y) - int(test * len(y))
        found = Labelled(title, x[:end], y[:end], x[end:], y[end:], classes)
    return _in_float32(found, standardise)


def _read(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", error) from error
    if not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise DatasetError(f"{path} is neither .csv, .csv.gz nor .parquet")
    try:
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        with pyarrow.input_stream(str(path)) as file:
            first = file.read(_FIRST).partition(b"\n")[0].decode("utf-8", "replace")
        separator = next((one for one in ",;\t" if one in first), ",")
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=separator))
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read ({error})") from error


def _in_float32(data: Labelled, standardise: bool) -> Labelled:
    train, test = data.train_x, data.test_x
    assert isinstance(train, torch.Tensor)
    assert isinstance(test, torch.Tensor)
    if standardise and len(train):
        deviation, mean = torch.std_mean(train, dim=0, correction=0)
        deviation = torch.where(deviation > 0, deviation, 1.0)
        train, test = (train - mean) / deviation, (test - mean) / deviation
    return replace(data, train_x=train.float(), test_x=test.float())


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    import pyarrow

    kind = column.type
    numeric = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean)
    if not any(is_kind(kind) for is_kind in numeric):
        cells = enumerate(column.to_pylist(), start=1)
        row, value = next((pair for pair in cells if not _is_number(pair[1])), (1, column[0]))
        raise DatasetError(
            f"column {name!r} of {path} is {kind}, not numeric, in its {len(column)} rows, as in "
            f"row {row}: {str(value)!r}; leave it out of `features` or turn it into numbers"
        )
    values: np.ndarray = column.cast(pyarrow.float64()).to_numpy()  # what is missing becomes NaN
    with np.errstate(over="ignore"):
        wrong = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
    if len(wrong):
        raise DatasetError(
            f"column {name!r} of {path} is missing, NaN or infinite in {len(wrong)} of "
            f"{len(values)} rows, first in row {wrong[0] + 1}: {values[wrong[0]]}; fill them or "
            "drop them"
        )
    return values


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _classes(path: Path, name: str, column: Any) -> tuple[tuple[str, ...], torch.Tensor]:
    import pyarrow

    values = column.to_pylist()
    lacking = (value is None or not str(value).strip() for value in values)
    empty = [row for row, lacks in enumerate(lacking, start=1) if lacks]
    if empty:
        raise DatasetError(
            f"the label {name!r} of {path} is missing in {len(empty)} of {len(values)} rows, "
            f"first in row {empty[0]} below the names of the columns; fill them or drop them"
        )
    if pyarrow.types.is_floating(column.type):
        raise DatasetError(
            f"the label {name!r} of {path} is {column.type}, so that its values are no classes; "
            "turn it into text or integers"
        )
    distinct = sorted(set(values))
    number = {value: position for position, value in enumerate(distinct)}
    y = torch.tensor([number[value] for value in values])
    return tuple(str(value) for value in distinct), y
