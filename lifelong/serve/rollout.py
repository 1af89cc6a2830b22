"""A canary: a challenger that answers some of the users, watched by the labels that come back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lifelong.core.errors import RegistryError
from lifelong.serve.canary import Canary
from lifelong.serve.events import Event, Log
from lifelong.serve.rows import labelled
from lifelong.serve.sequential import PairedTest
from lifelong.serve.traffic import Assignment, Ramp

FILE = "canary.json"
_CHUNK = 1000
_USERS = 1_000_000
"""Users that are told apart in one canary; those who come later add nothing to the test."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Who is exposed to a challenger, as canary.json has it.

    Attributes:
        champion: answers the rest of the users.
        challenger: answers the share.
        share: of the users.
        since: an offset; what the challenger answered comes after it.
        time: when it began, in seconds since 1970.
        changed: when the share was set.
    """

    champion: int
    challenger: int
    share: float
    since: int
    time: float
    changed: float

    @classmethod
    def read(cls, folder: Path) -> Exposure | None:
        """Read a service's canary.json; None if no challenger is served.

        Raises:
            RegistryError: the file is damaged.
        """
        path = folder / FILE
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"cannot read {path}: {error}; delete it, and the champion answers everybody"
            ) from error

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def assignment(self) -> Assignment:
        """Return who is answered by whom: the same users whatever restarts in between."""
        return Assignment(self.champion, self.challenger, self.share)


class Blocks:
    """Compare two streams of rights and wrongs block by block; see `Live`.

    Example:
        >>> blocks = Blocks()
        >>> for new, right in [(False, True), (False, False), (True, True)]:
        ...     blocks.add(new, right)
        >>> blocks.test.n, blocks.test.mean
        (1, 0.5)
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.test = PairedTest(alpha)
        self._open = [[0, 0], [0, 0]]  # of old and new: rows in the block, and how many were right

    def add(self, new: bool, right: bool) -> None:
        """Take in a row of the new or the old stream."""
        self._open[new][0] += 1
        self._open[new][1] += right
        (rows, old), (others, good) = self._open
        if rows and others:
            self.test.add([good / others - old / rows])
            self._open = [[0, 0], [0, 0]]


class Live:
    r"""What champion and challenger got right of the requests that each of them answered.

    No request has answers of both, so rows are not paired, and a share that grows while the world
    changes would mix up the two. So rows are cut into blocks in the order in which they become
    whole: a block ends as soon as both versions have a row in it. A block's difference

        d = mean of the challenger's rows in it - mean of the champion's, each right (1) or not (0)

    lies in [-1, 1], and its mean, given all before it, is the difference of the two versions' rates
    at that time, whatever the share: who answers is drawn by a hash that knows nothing of the row.
    Blocks of both arms are how Turner, Ly & Grünwald 2024 (arXiv:2106.02693) compare two streams at
    any time; ours end by themselves, and their differences go to the test of Waudby-Smith & Ramdas
    2024 (arXiv:2010.09686, see `PairedTest`), which holds however often one looks.

    Rows of one user go right and wrong together, and he is answered by one version: twenty users
    with a hundred rows each say as much about the versions as twenty rows, not two thousand. So the
    test takes the first labelled row of each user alone. Who he is answered by is drawn by a hash,
    whatever was seen before, so the mean of a block given the past is what it should be however
    much his rows resemble each other. A request without a subject is a user of its own. What is
    told of the difference on all rows is a mean, without a promise; `tolerance` is for that one.

    Args:
        log: with the predictions and their labels. All that is known here is read from it, so a
            new process comes to the same.
        exposure: which versions, and from where on.
        alpha: of the test.
    """

    def __init__(self, log: Log, exposure: Exposure, alpha: float = 0.05) -> None:
        self.log = log
        self.exposure = exposure
        self.at = exposure.since
        self.right = {exposure.champion: 0, exposure.challenger: 0}
        self.rows = {exposure.champion: 0, exposure.challenger: 0}
        self.users: dict[int, int] = {exposure.champion: 0, exposure.challenger: 0}
        self._of_users, self._of_rows = Blocks(alpha), Blocks(alpha)
        self._known: set[int] = set()  # hashes of the users that have had a labelled row

    def read(self) -> bool:
        """Take in the next events, and say whether there may be more."""
        events = self.log.read(self.at, _CHUNK)
        for event in events:
            self._take(event)
            self.at = event.offset
        return len(events) == _CHUNK

    @property
    def test(self) -> PairedTest:
        """The challenger's lead, by one row of each user."""
        return self._of_users.test

    @property
    def lead(self) -> float:
        """The mean of the challenger's lead on all rows, at the same times."""
        return self._of_rows.test.mean

    @property
    def worse(self) -> bool:
        """Whether the challenger is shown to get less right."""
        return self.test.is_below(0.0, self.test.alpha)

    def report(self) -> dict[str, Any]:
        """Return what is known, as JSON values."""
        low, high = self.test.interval()
        return {
            "share": self.exposure.share,
            "rows": {str(version): rows for version, rows in self.rows.items()},
            "right": {str(version): right for version, right in self.right.items()},
            "users": {str(version): users for version, users in self.users.items()},
            "lead": self.lead,
            "blocks": self.test.n,
            "difference": self.test.mean,
            "low": low,
            "high": high,
        }

    def told(self) -> str:
        """Say it in a sentence."""
        of = self.exposure
        rates = (self.right[v] / max(self.rows[v], 1) for v in (of.champion, of.challenger))
        old, new = rates
        low, high = self.test.interval()
        return (
            f"canary: version {of.challenger} has {new:.4f} of its {self.rows[of.challenger]} rows "
            f"and version {of.champion} {old:.4f} of its {self.rows[of.champion]}; the difference "
            f"at the same times is {self.lead:+.4f}, and by the first rows of "
            f"{sum(self.users.values())} users within {low:+.4f} to {high:+.4f}"
        )

    def _take(self, event: Event) -> None:
        if event.kind == "label" and event.about is not None:
            prediction = self.log.find(event.about)
        else:
            prediction = event if event.kind == "prediction" else None
        if prediction is None or prediction.offset <= self.exposure.since:
            return
        version: int = prediction.data["version"]
        if version not in self.rows or (row := labelled(self.log, event)) is None:
            return
        right = bool(np.ravel(prediction.data["output"]).argmax() == row.y)
        self.rows[version] += 1
        self.right[version] += right
        new = version == self.exposure.challenger
        self._of_rows.add(new, right)
        user = _user(prediction)
        if user not in self._known and len(self._known) < _USERS:
            self._known.add(user)
            self.users[version] += 1
            self._of_users.add(new, right)


def _user(prediction: Event) -> int:
    """Return a hash of who a prediction is for: its subject, or else the request it came in."""
    who, place = prediction.id.rpartition(".")[::2]
    if prediction.subject is not None:
        who, when = prediction.subject, None
    else:  # rows of one request have its id, a place, and the time of their answer
        who, when = (who if place.isdecimal() and who else prediction.id), prediction.time
    digest = hashlib.blake2b(repr((who, when)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Step(NamedTuple):
    """What a canary has come to.

    Attributes:
        what: "wait" for more rows, "grow" to `share`, "complete" or "withdraw".
        share: of the users, from now on.
        reason: a sentence.
    """

    what: Literal["wait", "grow", "complete", "withdraw"]
    share: float
    reason: str


class Rollout:
    """Say when a canary grows, is complete, or is to be withdrawn.

    It is withdrawn as soon as it is shown to get less right than the champion. When it has answered
    `rows` labelled rows at its last share, it is complete if it is behind by no more than the
    tolerance there, and is withdrawn otherwise.

    Args:
        live: the evidence.
        settings: the ramp.
        tolerance: how far behind a challenger may be that is not shown to be worse.
        now: seconds since 1970.
    """

    def __init__(
        self, live: Live, settings: Canary, tolerance: float, now: Callable[[], float]
    ) -> None:
        self.live = live
        self.settings = settings
        self.tolerance = tolerance
        self.now = now

    def step(self) -> Step:
        """Say what is due on the evidence so far."""
        live, settings = self.live, self.settings
        share, told = live.exposure.share, live.told()
        if live.worse:
            return Step("withdraw", 0.0, f"shown to be worse; {told}")
        rows = live.rows[live.exposure.challenger]
        ramp = settings.ramp() if settings.share is not None else Ramp([(0, share)])
        lasted = self.now() - live.exposure.changed >= settings.seconds
        if lasted and rows >= ramp.complete_at + settings.rows and ramp.share(rows) <= share:
            if live.lead < -self.tolerance:
                return Step("withdraw", 0.0, f"behind by more than {self.tolerance}; {told}")
            return Step("complete", share, told)
        if lasted and ramp.share(rows) > share:
            higher = next(one for _, one in ramp.steps if one > share)
            return Step("grow", higher, told)
        if self.now() - live.exposure.time > settings.patience:
            return Step("withdraw", 0.0, f"open after {settings.patience:g} seconds; {told}")
        return Step("wait", share, told)
