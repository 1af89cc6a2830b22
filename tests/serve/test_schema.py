import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.core.errors import ConfigError
from lifelong.serve.messages import Predict
from lifelong.serve.schema import Malformed, Schema, decode, shown

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(st.lists(FLOATS, min_size=6, max_size=6))
def test_a_row_comes_back_exactly_flat_or_nested(numbers):
    schema = Schema((2, 3))
    flat = schema.row(json.dumps(numbers).encode())
    nested = schema.row(json.dumps([numbers[:3], numbers[3:]]).encode())
    assert flat.dtype == np.float32
    assert flat.shape == (2, 3)
    assert flat.tobytes() == nested.tobytes()
    assert flat.ravel().tolist() == numbers
    assert schema.array(numbers).tobytes() == flat.tobytes()


@given(JSON)
def test_anything_is_a_row_or_malformed(value):
    schema = Schema((2,))
    row, error = attempt(lambda: schema.row(json.dumps(value).encode()))
    if error is not None:
        assert error.what.startswith("x")
        assert len(str(error)) < 300
    else:
        assert [float(np.float32(v)) for v in value] == row.tolist()
        assert not any(isinstance(v, bool) for v in value)


def attempt(work):
    try:
        return work(), None
    except Malformed as error:
        return None, error


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'[1, "2", 3, 4]', "x[1]: '2'"),
        (b"[1, null, 3, 4]", "x[1]: None"),
        (b"[1, true, 3, 4]", "x[1]: True"),
        (b"[[1, 2], [3, {}]]", "x[1][1]: {}"),
        (b"[1, 2, 3]", "x: 3 numbers"),
        (b"[]", "x: 0 numbers"),
        (b"[[1, 2, 3, 4]]", "x: numbers of shape (1, 4)"),
        (b"[[1, 2], [3]]", "x: lists of unequal lengths"),
        (b"[1, 2, 3, 1e39]", "x: a number too large for float32"),
        (b"[1, 2, 3, 1e999]", "x: "),
        (b"7", "x: 7"),
        (b'"' + b"a" * 99 + b'"', "x: 'aaaaaaaaa"),
        (b"[1, 2, 3, -2]", "x: -2.0 is out of range"),
        (b"[1, 2, 3, 200]", "x: 200.0 is out of range"),
        (b"[" * 500, "x: "),
    ],
)
def test_errors_name_the_field_and_what_came(text, what):
    with pytest.raises(Malformed) as caught:
        Schema((2, 2), low=-1, high=100).row(text)
    assert caught.value.what.startswith(what)
    assert len(caught.value.what) < 100
    assert caught.value.how


def test_rows_are_limited_and_all_alike():
    schema = Schema((2,))
    assert schema.rows(b"[[1, 2], [3, 4]]", most=2).shape == (2, 2)
    for text in (b"[]", b"[[1, 2], [3, 4], [5, 6]]", b"[[1, 2], [3]]", b"[[1], [2]]", b"[1, 2]"):
        with pytest.raises(Malformed, match="rows"):
            schema.rows(text, most=2)


@pytest.mark.parametrize("y", [-1, 3, 1.0, True, "1", None, [1], pytest.param(10**5000, id="huge")])
def test_labels_must_be_classes(y):
    with pytest.raises(Malformed, match="from 0 to 2"):
        Schema((1,), classes=3).label(y)
    assert Schema((1,), classes=3).label(2) == 2


@pytest.mark.parametrize("y", [math.nan, math.inf, 1e39, 10**400, True, "1", None])
def test_labels_without_classes_must_be_finite(y):
    with pytest.raises(Malformed, match="finite"):
        Schema((1,)).label(y)
    assert Schema((1,)).label(2) == 2.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"x": [1], "colour": 1}',
        b'{"x": [1], "id": "a:b"}',
        b'{"x": [1], "id": "a b"}',
        b'{"x": [1], "id": "a\\n"}',
        b'{"x": [1], "id": ""}',
        b'{"x": [1], "subject": "a\\u0000"}',
        b'{"x": [1], "id": "\xff"}',
        b'{"x": [1], "id": "\\ud800"}',
        b'{"x": [1], "task": -1}',
        b'{"x": [1]} {}',
        b"\xef\xbb\xbf{}",
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_bodies_that_are_not_as_documented(body):
    with pytest.raises(Malformed) as caught:
        decode(msgspec.json.Decoder(Predict), body)
    assert len(str(caught.value)) < 500


def test_what_is_shown_is_short():
    assert len(shown("x" * 10**6)) < 50
    assert "too long" in shown(10**5000)


@pytest.mark.parametrize(
    "settings", [{"shape": ()}, {"shape": (0,)}, {"classes": 0}, {"low": 2, "high": 1}]
)
def test_senseless_schemas_are_refused(settings):
    with pytest.raises(ConfigError):
        Schema(**{"shape": (2,), **settings})


def test_infinities_of_both_signs_are_told_as_one_is():
    with pytest.raises(Malformed, match="a number too large for float32"):
        Schema((2,)).row(b"[1e300, -1e300]")
