"""What the demo prints: short chapters, one line a fact, and each claim with what became of it."""

from __future__ import annotations

import time
from typing import Any

from lifelong.core.errors import MissingExtra


class Story:
    """Tell what happens, in colour on a terminal and plainly elsewhere, and count what failed."""

    def __init__(self) -> None:
        try:
            from rich.console import Console
        except ImportError as error:
            raise MissingExtra("rich", "bench", error) from error
        self.console = Console(highlight=False, soft_wrap=True)
        self.failed: list[str] = []
        self._started = time.monotonic()

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        seconds = f"{time.monotonic() - self._started:.0f} s"
        room = min(self.console.width, 88) - len(title) - len(seconds) - 2
        self.console.print(f"\n{title} {' ' * room} {seconds}", style="bold cyan", markup=False)

    def line(self, text: str, style: str = "") -> None:
        """Tell a fact."""
        self.console.print(f"  {text}", style=style, markup=False)

    def claim(self, held: bool, text: str) -> None:
        """Say whether a claim held; it is remembered if it did not."""
        if not held:
            self.failed.append(text)
        self.line(f"{'ok     ' if held else 'FAILED '} {text}", "green" if held else "bold red")

    def waiting(self, text: str) -> Any:
        """Say that something takes time; return what shows it on a terminal, while entered."""
        if not self.console.is_terminal:
            self.line(text)
        return self.console.status(f"  {text}", spinner="line")


def percent(share: float | None) -> str:
    """Write a share for a column.

    Example:
        >>> percent(0.957), percent(None)
        ('96 %', '-')
    """
    return "-" if share is None else f"{100 * share:.0f} %"
