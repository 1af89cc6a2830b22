"""Which part of a long list a request asks for."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from lifelong.serve.schema import Malformed, shown

MOST = 500
BIGGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list.

    Attributes:
        after: the number of the entry after which it begins.
        limit: entries at most.
        before: entries below this number, the newest first; None for all, the oldest first.
    """

    after: int = 0
    limit: int = 100
    before: int | None = None


def page_of(query: bytes) -> Page:
    """Read a page from a URL's query.

    Raises:
        Malformed: a name is unknown or comes twice, or a value is no number in its range.

    Example:
        >>> page_of(b"after=20&limit=10")
        Page(after=20, limit=10, before=None)
        >>> page_of(b"limit=0")
        Traceback (most recent call last):
        ...
        lifelong.serve.schema.Malformed: limit: '0'; send a whole number from 1 to 500
    """
    ranges = {"after": (0, BIGGEST), "limit": (1, MOST), "before": (1, BIGGEST)}
    found: dict[str, int] = {}
    text = query.decode("ascii", "replace")
    if text.count("&") > 10:
        raise Malformed("a query of more than ten parts", "send after, limit or before")
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in ranges or name in found:
            what = "comes twice" if name in found else "is unknown"
            raise Malformed(
                f"query: {shown(name)} {what}", "send after, limit or before, each once"
            )
        low, high = ranges[name]
        digits = value.isascii() and value.isdigit() and len(value) < 20
        if not digits or not low <= int(value) <= high:
            raise Malformed(f"{name}: {shown(value)}", f"send a whole number from {low} to {high}")
        found[name] = int(value)
    return Page(**found)
