"""Who is served by which version: a share of the users, each of them always the same way."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # so that settings are read without torch
    from lifelong.serve.snapshot import Arm


def bucket(subject: str, salt: str) -> float:
    """Return the user's place in [0, 1): the same in every process, on every machine, for ever.

    The first 53 bits of SHA-256 over the salt's length, the salt and the subject. Places under two
    salts are independent, so the users of one experiment are spread evenly over the next.

    Args:
        subject: the user, or the id of the request where users are not known.
        salt: the experiment's name.

    >>> bucket("ada", "3 or 4") == bucket("ada", "3 or 4")
    True
    >>> round(bucket("ada", "3 or 4"), 3), round(bucket("ada", "4 or 5"), 3)
    (0.479, 0.562)
    """
    # The length keeps ("ab", "c") and ("a", "bc") apart. JSON can hold lone surrogates.
    text = f"{len(salt)}:{salt}{subject}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") // 2**11 / 2**53


class Choice(NamedTuple):
    """Who is to answer a request.

    Attributes:
        arm: champion or challenger.
        version: the version that was meant; None for whichever serves.
        propensity: the probability with which a user gets this arm; None if nobody has said.
    """

    arm: Arm
    version: int | None = None
    propensity: float | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """Serve the challenger to a share of the users and the champion to the rest.

    A user gets the challenger if `bucket` is below the share. So who has the challenger keeps it as
    long as the share grows, and who loses it as the share shrinks came last.

    Args:
        champion: the version that serves by default.
        challenger: the version on trial; None if there is none.
        share: of users for the challenger, 0 to 1.
        salt: the experiment's name; by default the two versions. Keep it while the share changes.

    Raises:
        ValueError: the share is not within 0 to 1, or the two versions are one.

    Example:
        >>> canary = Assignment(champion=3, challenger=4, share=0.05)
        >>> canary.version("ada"), canary.with_share(0.5).version("ada")
        (3, 4)
        >>> canary.choose("ada")
        Choice(arm='champion', version=3, propensity=0.95)
    """

    champion: int
    challenger: int | None = None
    share: float = 0.0
    salt: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share!r}; it lies within 0 and 1, such as 0.05")
        if self.challenger is None and self.share > 0.0:
            raise ValueError(f"share is {self.share!r} without a challenger to serve; name one")
        if self.champion == self.challenger:
            raise ValueError(f"champion and challenger are both version {self.champion!r}")

    def version(self, subject: str) -> int:
        """Return the version that serves this user."""
        if self.challenger is None:
            return self.champion
        salt = f"{self.champion} or {self.challenger}" if self.salt is None else self.salt
        return self.challenger if bucket(subject, salt) < self.share else self.champion

    def choose(self, subject: str) -> Choice:
        """Return the arm of this user, and how likely any user is to get it."""
        version = self.version(subject)
        if version == self.champion:
            return Choice("champion", version, 1.0 - self.share)
        return Choice("challenger", version, self.share)

    def with_share(self, share: float) -> Assignment:
        """Return the same assignment with another share."""
        return replace(self, share=share)


class Ramp:
    """A share that grows with the rows seen: never with a clock, so that it can be replayed.

    Args:
        steps: (rows, share): from so many rows on, this share. The first starts at 0 rows; rows
            grow from step to step and shares never shrink.

    Raises:
        ValueError: the steps are not so.

    Example:
        >>> ramp = Ramp([(0, 0.01), (500, 0.05), (2000, 0.25)])
        >>> ramp.share(499), ramp.share(500), ramp.share(10**6)
        (0.01, 0.05, 0.25)
    """

    def __init__(self, steps: Sequence[tuple[int, float]]) -> None:
        self.steps = tuple((int(rows), float(share)) for rows, share in steps)
        rows = [step[0] for step in self.steps]
        shares = [step[1] for step in self.steps]
        if not rows or rows[0] != 0:
            raise ValueError(f"steps are {list(steps)!r}; the first starts at 0 rows: (0, 0.01)")
        if any(after <= before for before, after in pairwise(rows)):
            raise ValueError(f"steps start at {rows} rows; each starts later than the one before")
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError(f"steps have the shares {shares}; shares lie within 0 and 1")
        if shares != sorted(shares):
            raise ValueError(f"steps have the shares {shares}; a share never shrinks on a ramp")

    def share(self, rows: int) -> float:
        """Return the share after so many rows."""
        if rows < 0:
            raise ValueError(f"rows is {rows!r}; it counts from 0")
        return self.steps[bisect_right(self.steps, rows, key=lambda step: step[0]) - 1][1]

    @property
    def complete_at(self) -> int:
        """The rows from which the share does not grow any more."""
        last = self.steps[-1][1]
        return next(rows for rows, share in self.steps if share == last)
