"""What a row of features and a label must look like, and the check of what clients send."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Raw

from lifelong.core.errors import ConfigError, InvalidBatch

Array: TypeAlias = npt.NDArray[np.float32]
Body = TypeVar("Body")
_SHOWN = 40
LARGEST = 3.4e38
"""Above it, float32 would make a number infinite."""


class Malformed(InvalidBatch):
    """What a client sent cannot be used; `what` was received, and `how` to send it instead."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what}; {how}")
        self.what, self.how = what, how


class Schema:
    """Check rows of features, and labels, that come as JSON.

    A row is a list of numbers in nested lists of `shape`, or flat with as many numbers. It becomes
    float32, and must be finite as such.

    Args:
        shape: of one row.
        classes: labels are 0 to `classes` - 1; None for any finite number (regression).
        low: the least that a feature may be; None for no bound.
        high: the most that a feature may be; None for no bound.

    Raises:
        ConfigError: an empty or non-positive shape, no class, or a range without a number in it.

    Example:
        >>> schema = Schema((2, 2), classes=3, low=0)
        >>> schema.row(b"[1, 2, 3, 4.5]").tolist()
        [[1.0, 2.0], [3.0, 4.5]]
        >>> schema.row(b"[[1, 2], [3, -4]]")
        Traceback (most recent call last):
        ...
        lifelong.serve.schema.Malformed: x: -4.0 is out of range; send numbers of at least 0
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        classes: int | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        if not shape or any(size < 1 for size in shape):
            raise ConfigError(f"rows of shape {shape}; give one or more sizes above 0")
        if classes is not None and classes < 1:
            raise ConfigError(f"{classes} classes; give 1 or more, or None for numbers as labels")
        if low is not None and high is not None and not low <= high:
            raise ConfigError(f"a range from {low} to {high}; low must not be above high")
        self.shape, self.classes, self.low, self.high = tuple(shape), classes, low, high
        self.size = math.prod(shape)
        self._nested = f"or nested as {'x'.join(map(str, shape))}" if len(shape) > 1 else ""

    def row(self, data: bytes | Raw, field: str = "x") -> Array:
        """Decode and check one row, `shape`.

        Raises:
            Malformed: it is no list of numbers, of another shape, not finite or out of range.
        """
        return self.read(data, field)[0]

    def read(self, data: bytes | Raw, field: str = "x") -> tuple[Array, list[Any]]:
        """Do as `row`, and return the floats too, as they were sent, for the log.

        Example:
            >>> Schema((2,)).read(b"[1, 0.5]")
            (array([1. , 0.5], dtype=float32), [1.0, 0.5])
        """
        array, numbers = self._decode(bytes(data), 0, field)
        if array.size != self.size or array.shape not in ((self.size,), self.shape):
            raise self._misshaped(array.shape, field)
        self._check(array, field)
        return array.reshape(self.shape), numbers

    def rows(self, data: bytes | Raw, most: int, field: str = "rows") -> Array:
        """Decode and check 1 to `most` rows, (rows, *shape).

        Raises:
            Malformed: as `row`, or there is no row or more than `most`.

        Example:
            >>> Schema((2,)).rows(b"[[1, 2], [3, 4]]", most=8).tolist()
            [[1.0, 2.0], [3.0, 4.0]]
        """
        array, _ = self._decode(bytes(data), 1, field)
        if not 1 <= len(array) <= most:
            raise Malformed(f"{field}: {len(array)} rows", f"send 1 to {most} rows at once")
        if array.shape[1:] not in ((self.size,), self.shape):
            raise self._misshaped(array.shape[1:], f"{field}[0]")
        self._check(array, field)
        return array.reshape(-1, *self.shape)

    def numbers(self, data: bytes | Raw, rows: bool = False) -> list[Any]:
        """Decode a row, or rows, that passed the check, to floats as they were sent, for the log.

        Example:
            >>> Schema((2,)).numbers(b"[1, 0.1]")
            [1.0, 0.1]
        """
        numbers: list[Any] = _decoder(_depth(bytes(data), rows + len(self.shape))).decode(data)
        return numbers

    def array(self, features: Any) -> Array:
        """Turn features out of the log, which were checked when they came, into a row, `shape`.

        Example:
            >>> Schema((2, 1)).array([1, 2]).shape
            (2, 1)
        """
        return np.asarray(features, np.float32).reshape(self.shape)

    def label(self, value: Any, field: str = "y") -> int | float:
        """Check a label that was decoded from JSON.

        Raises:
            Malformed: it is no class, or no finite number.

        Example:
            >>> Schema((1,), classes=3).label(3)
            Traceback (most recent call last):
            ...
            lifelong.serve.schema.Malformed: y: 3; send a whole number from 0 to 2
        """
        if self.classes is not None:
            if type(value) is int and 0 <= value < self.classes:
                return value
            raise Malformed(
                f"{field}: {shown(value)}", f"send a whole number from 0 to {self.classes - 1}"
            )
        # The bound also keeps float() from overflowing.
        if type(value) in (int, float) and abs(value) <= LARGEST:
            return float(value)
        raise Malformed(f"{field}: {shown(value)}", "send a finite number")

    def _decode(self, data: bytes, outer: int, field: str) -> tuple[Array, list[Any]]:
        depth = _depth(data, outer + len(self.shape) + 1)
        try:
            numbers = _decoder(max(depth, 1)).decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._unlike(data, error, field) from None
        try:
            with np.errstate(over="ignore"):
                return np.array(numbers, np.float32), numbers
        except (ValueError, OverflowError):  # lists of unequal lengths
            raise Malformed(f"{field}: lists of unequal lengths", self._how(field)) from None

    def _check(self, array: Array, field: str) -> None:
        if not np.isfinite(array).all():
            raise Malformed(f"{field}: a number too large for float32", "scale the features")
        if self.low is not None and (least := float(array.min())) < self.low:
            raise Malformed(
                f"{field}: {least} is out of range", f"send numbers of at least {self.low}"
            )
        if self.high is not None and (most := float(array.max())) > self.high:
            raise Malformed(
                f"{field}: {most} is out of range", f"send numbers of at most {self.high}"
            )

    def _misshaped(self, shape: tuple[int, ...], field: str) -> Malformed:
        count = math.prod(shape)
        received = f"{count} numbers" if count != self.size else f"numbers of shape {shape}"
        return Malformed(f"{field}: {received}", self._how(field))

    def _how(self, field: str) -> str:
        row = f"a list of {self.size} numbers {self._nested}".rstrip()
        return f"send {row}" if field != "rows" else f"send rows, each {row}"

    def _unlike(self, data: bytes, error: Exception, field: str) -> Malformed:
        """Name the first value that is no number, by its place."""
        place = "".join(re.findall(r"\[\d+\]", str(error)))
        try:
            value = msgspec.json.decode(data)
            for index in re.findall(r"\d+", place):
                value = value[int(index)]
        except (ValueError, RecursionError, TypeError, LookupError):
            return Malformed(f"{field}: {shown(data.decode(errors='replace'))}", self._how(field))
        return Malformed(f"{field}{place}: {shown(value)}", self._how(field))


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """Decode a request's body.

    Raises:
        Malformed: it is no JSON, or misses a field, or has one unknown or of another type.

    Example:
        >>> decode(msgspec.json.Decoder(dict[str, int]), b'{"a": "1"}')
        Traceback (most recent call last):
        ...
        lifelong.serve.schema.Malformed: expected `int`, got `str` at body[...]; see /docs for ...
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        text = re.sub(r" - at `\$?(.*)`$", r" at body\1", text[:1].lower() + text[1:])
        raise Malformed(text[:300], _how(decoder)) from None
    except RecursionError:
        raise Malformed("the body is nested too deeply", _how(decoder)) from None
    except ValueError as error:  # msgspec's own and UnicodeDecodeError descend from it
        received = shown(body.decode(errors="replace")) if body else "nothing"
        text = f"the body is not JSON ({str(error)[:100]}): {received}"
        raise Malformed(text, f"send JSON in UTF-8; {_how(decoder)}") from None


def _how(decoder: msgspec.json.Decoder[Any]) -> str:
    """Name the fields of a body, the required ones first."""
    kind, example = decoder.type, "see /docs for an example"
    if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
        return example
    fields = msgspec.structs.fields(kind)
    needed = " and ".join(field.name for field in fields if field.required)
    others = ", ".join(field.name for field in fields if not field.required)
    needs = [f"it needs {needed}"] if needed else []
    may = [f"it may have {others}"] if others else []
    return f"{' and '.join(needs + may)}; {example}"


def shown(value: Any) -> str:
    """Show a received value in few characters.

    Example:
        >>> shown("a" * 99)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of too many digits for Python to print
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}..."


def _depth(data: bytes, most: int) -> int:
    """Count the lists that begin before the first number, up to `most`."""
    depth = 0
    for byte in data:
        if byte == 0x5B:
            depth += 1
        elif byte not in b" \t\r\n":
            break
        if depth == most:
            break
    return depth


@lru_cache(maxsize=64)
def _decoder(depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = float
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)
