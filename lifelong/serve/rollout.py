"""A canary: a challenger that answers some of the users, watched by the labels that come back."""

from __future__ import annotations

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

    Rows of one user are taken as independent. Where few users send most rows they are not, and the
    test is too sure of itself.

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
        self.test = PairedTest(alpha)
        self.right = {exposure.champion: 0, exposure.challenger: 0}
        self.rows = {exposure.champion: 0, exposure.challenger: 0}
        # Of each version in the open block: rows, and how many of them were right.
        self._block = {exposure.champion: [0, 0], exposure.challenger: [0, 0]}

    def read(self) -> bool:
        """Take in the next events, and say whether there may be more."""
        events = self.log.read(self.at, _CHUNK)
        for event in events:
            self._take(event)
            self.at = event.offset
        return len(events) == _CHUNK

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
            f"at the same times is {self.test.mean:+.4f}, within {low:+.4f} to {high:+.4f}"
        )

    def _take(self, event: Event) -> None:
        if event.kind == "label" and event.about is not None:
            prediction = self.log.find(event.about)
        else:
            prediction = event if event.kind == "prediction" else None
        if prediction is None or prediction.offset <= self.exposure.since:
            return
        version: int = prediction.data["version"]
        if version not in self._block or (row := labelled(self.log, event)) is None:
            return
        right = bool(np.ravel(prediction.data["output"]).argmax() == row.y)
        self.rows[version] += 1
        self.right[version] += right
        self._block[version][0] += 1
        self._block[version][1] += right
        old, new = (self._block[v] for v in (self.exposure.champion, self.exposure.challenger))
        if old[0] and new[0]:
            self.test.add([new[1] / new[0] - old[1] / old[0]])
            old[:] = new[:] = [0, 0]


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
            if live.test.mean < -self.tolerance:
                return Step("withdraw", 0.0, f"behind by more than {self.tolerance}; {told}")
            return Step("complete", share, told)
        if lasted and ramp.share(rows) > share:
            higher = next(one for _, one in ramp.steps if one > share)
            return Step("grow", higher, told)
        if self.now() - live.exposure.time > settings.patience:
            return Step("withdraw", 0.0, f"open after {settings.patience:g} seconds; {told}")
        return Step("wait", share, told)
