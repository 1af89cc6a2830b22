"""What clients and the trainer send, as far as its form is the same for every model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

# Without colons: the service's own ids have one, so nobody can take them in advance.
Id = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-9;-~]+\Z")]
Line = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
Text = Annotated[str, Meta(max_length=4000)]
Part = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f=]+\Z")]
Slice = Annotated[dict[Part, Part], Meta(max_length=8)]
Share = Annotated[float, Meta(ge=0, le=1)]
Whole = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Predict(Struct, forbid_unknown_fields=True):
    """A row `x`, or several `rows`, to predict."""

    x: Raw = msgspec.field(default_factory=Raw)
    rows: Raw = msgspec.field(default_factory=Raw)
    id: Id | None = None
    subject: Line | None = None
    task: Whole | None = None
    slice: Slice | None = None


class Label(Struct, forbid_unknown_fields=True):
    """What was right for an earlier prediction."""

    prediction: Id
    y: int | float
    id: Id | None = None


class Example(Struct, forbid_unknown_fields=True):
    """Features and label together."""

    x: Raw
    y: int | float
    id: Id | None = None
    task: Whole | None = None
    subject: Line | None = None
    slice: Slice | None = None


class Promote(Struct, forbid_unknown_fields=True):
    """Serve this version."""

    version: Whole
    reason: Line
    id: Line | None = None


class Rollback(Struct, forbid_unknown_fields=True):
    """Serve an earlier version, `to` or the one before this; the learner too if `discard`."""

    reason: Line
    to: Whole | None = None
    discard: bool = False
    id: Line | None = None


class Challenge(Struct, forbid_unknown_fields=True):
    """Have this version answer a share of the users."""

    version: Whole
    share: Share
    reason: Line
    id: Line | None = None


class Withdraw(Struct, forbid_unknown_fields=True):
    """Have this version answer nobody, and recommend it no more."""

    version: Whole
    reason: Line
    id: Line | None = None


class Judged(Struct, forbid_unknown_fields=True):
    """A verdict about a version, with its evidence; as the trainer sends it."""

    version: Whole
    verdict: Literal["promote", "refuse", "undecided"]
    reasons: list[Text]
    report: dict[str, Any] = {}
    recommend: bool = False
    id: Line | None = None


class Erased(Struct, forbid_unknown_fields=True):
    """How far erasures up to an offset have come; as the trainer sends it."""

    state: Literal["learner rebuilt", "versions retired"]
    upto: Whole
    facts: dict[str, Any] = {}
    id: Line | None = None


class Erase(Struct, forbid_unknown_fields=True):
    """Forget everything of a subject."""

    subject: Line
    id: Line | None = None
