"""An event as a row of the log's table: checked, as plain JSON, with a checksum."""

from __future__ import annotations

import hashlib
import math
from typing import Any, cast

import msgspec

from lifelong.core.errors import LogError
from lifelong.serve.events import KINDS, Event

COLUMNS = "kind, id, time, data, about, task, subject, source, offset, digest"


class InvalidEvent(LogError, ValueError):
    """An event that a log cannot hold: NaN, a label about nothing, an unknown kind."""


class Conflict(LogError, ValueError):
    """An id that the log has already, with another content."""


def row_of(event: Event) -> tuple[Any, ...]:
    """Return the columns but offset and digest, after checking that the log can hold them."""
    problem = _problem(event)
    data = b""
    if not problem:
        try:
            data = msgspec.json.encode(event.data, order="deterministic")
            # What comes back is what was given: NaN, tuples and other types do not.
            whole, cause = msgspec.json.decode(data) == event.data, ""
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            whole, cause = False, f" ({error})"
        if not whole:
            problem = f"its data is not plain, finite JSON{cause}{_culprit(event.data)}; "
            problem += "give finite numbers, strings, booleans, None, lists and dicts"
    if problem:
        raise InvalidEvent(f"event {event.id!r:.200} cannot be logged: {problem}")
    time = float(event.time)
    return event.kind, event.id, time, data, event.about, event.task, event.subject, event.source


def _problem(event: Event) -> str:
    texts = (event.id, event.about, event.subject, event.source)
    if event.kind not in KINDS:
        return f"its kind is {event.kind!r}; known: {', '.join(KINDS)}"
    try:
        "".join(text for text in texts if text is not None).encode()
    except (TypeError, UnicodeEncodeError) as error:
        return f"id, about, subject and source are not all Unicode text ({error})"
    if not event.id:
        return "it has no id; give it a unique one"
    if event.kind == "label" and not event.about:
        return "it is a label about nothing; give the prediction's id as `about`"
    if event.task is not None and (type(event.task) is not int or abs(event.task) >= 2**63):
        return f"its task is {event.task!r}; give a 64-bit integer or None"
    if not isinstance(event.time, int | float) or not abs(event.time) < 1e12:
        return f"its time is {event.time!r}; give seconds since 1970"
    return "" if isinstance(event.data, dict) else f"its data is {type(event.data)}; give a dict"


def _culprit(value: object, path: str = "data", depth: int = 0) -> str:
    """Say which part of the data is no finite JSON value, if that is not too deep to be found."""
    if type(value) in (dict, list) and depth < 20:
        parts = value.items() if isinstance(value, dict) else enumerate(cast(list[object], value))
        found = (_culprit(part, f"{path}[{key!r}]", depth + 1) for key, part in parts)
        return next((culprit for culprit in found if culprit), "")
    plain = type(value) in (dict, list, str, int, bool, type(None))
    plain = plain or (type(value) is float and math.isfinite(value))
    return "" if plain else f": {path} is {value!r:.80}"


def event_of(fields: tuple[Any, ...]) -> Event:
    """Return the event of a row without its digest."""
    kind, id, time, data, *rest = fields
    return Event(kind, id, time, msgspec.json.decode(data), *rest)


def digest_of(*fields: object) -> bytes:
    """Return the checksum of a row."""
    return hashlib.blake2b(msgspec.msgpack.encode(fields), digest_size=8).digest()


def key_of(id: str) -> int:
    """Make a row's key from its event's id.

    Example:
        >>> key_of("p-1") == key_of("p-1") >= 0
        True
    """
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") >> 1
