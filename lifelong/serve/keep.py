"""How much of the event log is kept, as a setting says it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lifelong.core.errors import ConfigError
from lifelong.serve.log import SQLiteLog

_UNITS = {"events": 1.0, "days": 86_400.0, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of a log is to stay: the newest events by number, age or size.

    Attributes:
        amount: in events, seconds or bytes.
        unit: "all", "events", "days" or a unit of bytes.

    Example:
        >>> Keep.of("30 days"), Keep.of("all").unit
        (Keep(amount=2592000.0, unit='days'), 'all')
        >>> Keep.of("10 cm")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.ConfigError: keep is '10 cm'; give all, or a number of events, ...
    """

    amount: float
    unit: str

    @classmethod
    def of(cls, text: str) -> Keep:
        """Read a setting such as `30 days`.

        Raises:
            ConfigError: it is not one.
        """
        if text.strip() == "all":
            return cls(0.0, "all")
        found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d+)?)\s*(events|days|MB|GB|TB)\s*", text)
        if found is None or not float(found[1]) > 0:
            raise ConfigError(
                f"keep is {text!r}; give all, or a number of events, days, MB, GB or TB: 30 days"
            )
        return cls(float(found[1]) * _UNITS[found[2]], found[2])

    def upto(self, log: SQLiteLog, now: float) -> int:
        """Return the offset up to which events may go."""
        last, trimmed = log.last, log.trimmed
        if self.unit == "all":
            return trimmed
        if self.unit == "events":
            return max(trimmed, last - int(self.amount))
        if self.unit == "days":
            return max(trimmed, _older(log, trimmed, last, now - self.amount))
        size = log.size
        share = min(1.0, self.amount / size) if size else 1.0
        return max(trimmed, last - int((last - trimmed) * share))


def _older(log: SQLiteLog, low: int, high: int, then: float) -> int:
    """Find, by halving, the last offset received before a time; times ascend but for moments."""
    while low < high:
        middle = (low + high + 1) // 2
        when = log.time_at(middle)
        if when is not None and when < then:
            low = middle
        else:
            high = middle - 1
    return low
