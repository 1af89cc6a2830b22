"""The candidate beside the champion, as people see it: its lead, row after row, and the verdict."""

from __future__ import annotations

from lifelong.serve.comparison import Judgement
from lifelong.serve.progress import Trial
from lifelong.serve.sequential import PairedTest

POINTS = 120


class Contest:
    """Follow one trial after the other; the last one stays to be seen when it is over.

    The points are bounded: every other one goes when there are too many, but the newest.

    Example:
        >>> contest, test = Contest(), PairedTest()
        >>> test.add([1.0, 0.0, 1.0])
        >>> contest.look((3, 2, test), None)
        >>> contest.look(None, None)
        >>> contest.last.version, contest.last.n, contest.last.over
        (3, 3, True)
    """

    def __init__(self, last: Trial | None = None) -> None:
        self.last = last

    def look(
        self, running: tuple[int, int, PairedTest] | None, judgement: Judgement | None
    ) -> None:
        """Take note of the trial that is running.

        Args:
            running: candidate, champion, and the test of the candidate's lead; None if none is.
            judgement: the latest on it, or on the last one.
        """
        if running is None:
            if self.last is not None and not self.last.over:
                self.last.over = True
                self._judged(self.last, judgement)
            return
        version, champion, test = running
        last = self.last
        # A trial starts anew with its trainer, and its rows are then counted from 0 again.
        if last is None or last.over or last.version != version or test.n < last.n:
            last = self.last = Trial(version, champion)
        self._judged(last, judgement)
        if test.n > last.n:
            low, high = test.interval()
            last.n, last.mean, last.low, last.high = test.n, test.mean, low, high
            last.alpha = test.alpha
            last.points.append((test.n, round(test.mean, 4), round(low, 4), round(high, 4)))
            if len(last.points) > POINTS:
                last.points = [*last.points[:-1:2], last.points[-1]]

    def _judged(self, trial: Trial, judgement: Judgement | None) -> None:
        if judgement is not None:
            trial.report = judgement.report
