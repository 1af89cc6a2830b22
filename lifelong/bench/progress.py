"""Progress on the terminal: a bar for each run with its accuracies, and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from lifelong.bench.statistics import label
from lifelong.core.errors import MissingExtra


class RunProgress:
    """Shows how several runs go: live bars on a terminal, else a line for each run that ends.

    Args:
        configs: of the runs, in order.
        names: of the runs; strategy and seed by default.
    """

    def __init__(
        self, configs: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
    ) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
        except ImportError as error:
            raise MissingExtra("rich", "bench", error) from error
        self.names = names or [f"{label(c['strategy'])}, seed {c['seed']}" for c in configs]
        self.console = Console(file=sys.stderr)
        bar = 24 if self.console.width >= 100 else 12
        self.room = self.console.width - max(map(len, self.names)) - bar - len("100 % 0:00:00") - 4
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=bar),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[told]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.total = self.bars.add_task(
            "all runs", total=float(len(configs)), told="starting", left=""
        )
        self.bar: dict[int, Any] = {}
        self.share: dict[int, float] = {}
        self.before: dict[int, float] = {}
        """The share of each run that earlier processes did: it took no time of this one."""
        self.since: dict[int, float] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def tell(self, number: int, event: Mapping[str, Any]) -> None:
        """Take in how a run goes."""
        if "result" in event or "error" in event:
            self._over(number, event)
            return
        share = event["batch"] / event["batches"]
        if number not in self.bar:
            self.bar[number] = self.bars.add_task(self.names[number], total=1.0, told="", left="")
            self.before[number] = share
            self.since[number] = time.monotonic()
        self.share[number] = share
        self.bars.update(
            self.bar[number],
            completed=self.share[number],
            told=self._told(event),
            left=_left(share - self.before[number], 1 - share, self.since[number]),
        )
        self._all()

    def _over(self, number: int, event: Mapping[str, Any]) -> None:
        self.before.setdefault(number, 1.0)  # it was over before
        self.share[number] = 1.0
        if number in self.bar:
            self.bars.remove_task(self.bar.pop(number))
        self._all()
        if "error" in event:
            told = f"failed: {event['error']}"
        else:
            result = event["result"]
            told = f"{100 * result['average_accuracy']:.2f} % in {result['seconds']:.1f} s"
            if event.get("read"):
                told += ", read from an earlier run"
        line = f"{self.names[number]}: {told}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _told(self, event: Mapping[str, Any]) -> str:
        """Say which task it is, with the accuracy on each task, or their mean if room is short."""
        task, known = f"task {event['task'] + 1}/{event['tasks']}", event["accuracy"]
        each = " ".join("  ·" if value is None else f"{100 * value:3.0f}" for value in known)
        begun = [value for value in known if value is not None]
        if len(f"{task}  {each}") <= self.room or not begun:
            return f"{task}  {each}"
        mean = f"{task}  mean {100 * sum(begun) / len(begun):.0f}"
        return mean if len(mean) <= self.room else task

    def _all(self) -> None:
        share = sum(self.share.values())
        left = ""
        if self.since:
            done = share - sum(self.before.values())
            left = _left(done, len(self.names) - share, min(self.since.values()))
        self.bars.update(self.total, completed=share, left=left, told="")


def _left(done: float, rest: float, since: float) -> str:
    """Say how long the rest will take if it goes on as since then."""
    passed = time.monotonic() - since
    if done <= 0 or passed < 1:
        return "-:--:--"
    return str(timedelta(seconds=round(rest * passed / done)))
