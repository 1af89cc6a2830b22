"""Progress on the terminal: a bar for each run with its accuracies, and the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            raise MissingExtra("rich", "bench") from None
        self.names = names or [f"{label(c['strategy'])}, seed {c['seed']}" for c in configs]
        self.console = Console(file=sys.stderr)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.total = self.bars.add_task("all runs", total=float(len(configs)), told="")
        self.bar: dict[int, Any] = {}
        self.share: dict[int, float] = {}

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
        if "result" in event:
            self._over(number, event["result"])
            return
        if number not in self.bar:
            self.bar[number] = self.bars.add_task(self.names[number], total=1.0, told="")
        self.share[number] = event["batch"] / event["batches"]
        accuracy = " ".join(
            "  ·" if value is None else f"{100 * value:3.0f}" for value in event["accuracy"]
        )
        self.bars.update(
            self.bar[number],
            completed=self.share[number],
            told=f"task {event['task'] + 1}/{event['tasks']}  {accuracy}",
        )
        self.bars.update(self.total, completed=sum(self.share.values()))

    def _over(self, number: int, result: Mapping[str, Any]) -> None:
        self.share[number] = 1.0
        if number in self.bar:
            self.bars.remove_task(self.bar.pop(number))
        self.bars.update(self.total, completed=sum(self.share.values()))
        self.console.print(
            f"{self.names[number]}: {100 * result['average_accuracy']:.2f} % "
            f"in {result['seconds']:.1f} s",
            highlight=False,
        )
