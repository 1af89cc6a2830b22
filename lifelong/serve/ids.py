"""Ids for what was sent without one."""

from __future__ import annotations

import os
import time


def new_id() -> str:
    """Draw an id: 12 hexadecimal digits of the time in milliseconds, and 20 of chance.

    As in a UUID of version 7 (RFC 9562), ids that are drawn one after the other are neighbours in
    an index, so that a group of them changes a page or two of it, not one each.

    Example:
        >>> first, second = new_id(), new_id()
        >>> len(first), first == second, first[:12] <= second[:12]
        (32, False, True)
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
