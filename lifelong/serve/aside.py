"""Slow work beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


async def aside(work: Callable[[], Found]) -> Found:
    """Do slow work in another thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
