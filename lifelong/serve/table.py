"""The table of the service's routes: who may ask, what is done, and how it is documented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from lifelong.serve.auth import Role
from lifelong.serve.messages import (
    Challenge,
    Erase,
    Erased,
    Example,
    Judged,
    Label,
    Predict,
    Promote,
    Rollback,
    Withdraw,
)
from lifelong.serve.parts import Reply
from lifelong.serve.routes import Routes


@dataclass(frozen=True)
class Route:
    """A route that needs a role (None: any key), with its documentation."""

    path: str
    role: Role | None
    work: Callable[[Routes], Callable[[str, bytes], Awaitable[Reply]]]
    about: str
    answer: Any
    body: Any = None
    sent: tuple[Any, ...] = ()
    status: int = 200
    paged: bool = False


_X = [0.0, 0.5, 1.0, 0.25]
_ANSWER = {"id": "p-1", "version": 3, "output": [0.1, 0.9], "label": 1}
_DECIDED = {"id": "decision:d-1", "action": "promote", "version": 3, "offset": 7}
ROUTES = (
    Route(
        "/predict",
        "predict",
        lambda routes: routes.predict,
        "Predict one row, or several at once with the answer under `predictions`",
        _ANSWER,
        Predict,
        ({"x": _X, "id": "p-1", "subject": "user-7"}, {"rows": [_X, _X]}),
    ),
    Route(
        "/labels",
        "learn",
        lambda routes: routes.label,
        "Say what was right for earlier predictions; durable when answered, safe to send again",
        {"ids": ["label:p-1"], "offsets": [5]},
        Label | list[Label],
        ({"prediction": "p-1", "y": 1}, [{"prediction": "p-1", "y": 1}]),
        202,
    ),
    Route(
        "/examples",
        "learn",
        lambda routes: routes.learn,
        "Send features with labels; durable when answered, safe to send again with an id",
        {"ids": ["e-1"], "offsets": [6]},
        Example | list[Example],
        ({"x": _X, "y": 1, "id": "e-1"}, [{"x": _X, "y": 1, "subject": "user-7"}]),
        202,
    ),
    Route(
        "/versions",
        "operate",
        lambda routes: routes.versions,
        "List the versions and who serves",
        {"champion": 3, "challenger": None, "versions": [{"version": 3}]},
    ),
    Route(
        "/promote",
        "operate",
        lambda routes: routes.promote,
        "Serve a version; sent again with its id, it changes nothing",
        _DECIDED,
        Promote,
        ({"version": 3, "reason": "0.4 points better over a week", "id": "d-1"},),
    ),
    Route(
        "/rollback",
        "operate",
        lambda routes: routes.rollback,
        "Serve the version before, or the version `to`; sent again with its id, it changes nothing",
        {**_DECIDED, "action": "rollback", "version": 2},
        Rollback,
        ({"reason": "complaints"}, {"to": 2, "reason": "complaints", "id": "d-2"}),
    ),
    Route(
        "/erase",
        "operate",
        lambda routes: routes.erase,
        "Have everything of a subject forgotten",
        {"id": "erasure:x-1", "offset": 8, "exact": True, "trimmed": 0, "unknown_until": 0},
        Erase,
        ({"subject": "user-7", "id": "x-1"},),
        202,
    ),
    Route(
        "/erase/{id}",
        "operate",
        lambda routes: routes.erasure,
        "Tell how far an erasure has come: its receipt, without personal data",
        {
            "id": "erasure:x-1",
            "erasure": 8,
            "state": "done",
            "sha256": "6f1e...",
            "audit": "90b2...",
        },
    ),
    Route(
        "/candidate",
        "operate",
        lambda routes: routes.candidate,
        "Tell what is on trial, the newest verdict with its evidence, and what is recommended",
        {"mode": "recommend", "recommended": 4, "verdict": {"version": 4, "verdict": "promote"}},
    ),
    Route(
        "/challenge",
        "operate",
        lambda routes: routes.challenge,
        "Have a version answer a share of the users; sent again with its id, it changes nothing",
        {**_DECIDED, "action": "challenge", "version": 4},
        Challenge,
        ({"version": 4, "share": 0.05, "reason": "a canary", "id": "d-3"},),
    ),
    Route(
        "/withdraw",
        "operate",
        lambda routes: routes.withdraw,
        "Have a version answer nobody and recommend it no more",
        {**_DECIDED, "action": "withdraw", "version": 4},
        Withdraw,
        ({"version": 4, "reason": "complaints", "id": "d-4"},),
    ),
    Route(
        "/verdict",
        "operate",
        lambda routes: routes.verdict,
        "Keep a verdict about a version, and recommend it if asked; the trainer sends these",
        {**_DECIDED, "action": "verdict", "version": 4},
        Judged,
        ({"version": 4, "verdict": "promote", "reasons": ["it is better"], "recommend": True},),
    ),
    Route(
        "/erased",
        "operate",
        lambda routes: routes.erased,
        "Say how far erasures have come; the trainer sends these",
        {"erasures": [8]},
        Erased,
        ({"state": "learner rebuilt", "upto": 9, "facts": {}},),
    ),
    Route(
        "/status",
        "operate",
        lambda routes: routes.status,
        "Everything that the console shows",
        {"time": 1.7e9, "champion": 3, "trainer": {"state": "alive", "behind": 0}},
    ),
    Route(
        "/quarantine",
        "operate",
        lambda routes: routes.quarantine,
        "Rows that were not learned from: where, why and whose; never their features",
        {"rows": [{"offset": 7, "reason": "schema", "source": "shop"}]},
        paged=True,
    ),
    Route(
        "/audit",
        "operate",
        lambda routes: routes.audit,
        "Decisions, each with the hash of the one before",
        {"entries": [{"n": 1, "action": "promote", "actor": "trainer"}]},
        paged=True,
    ),
)
