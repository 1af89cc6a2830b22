"""What a trainer tells of itself, twice a second, in `trainer/status.json`: for people to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field


class Learned(Struct):
    """Rows whose labels are in a version and were in none before.

    Attributes:
        version: its number.
        first: the lowest of the offsets at which the rows became whole.
        rows: how many.
        times: when they became whole, in seconds since 1970: at most 32 of them, ascending and
            evenly spaced, the first and the last included.
    """

    version: int
    first: int
    rows: int
    times: list[float]


class Point(Struct):
    """What was known at one time.

    Attributes:
        time: in seconds since 1970.
        version: the champion.
        accuracy: of the champion on the anchors of each task or period.
        forgetting: how far that is below the best that a champion had on them since the task or
            period was last open.
        recent: the share of the latest rows that the learner had right before it learned them.
    """

    time: float
    version: int
    accuracy: dict[int, float]
    forgetting: dict[int, float] = field(default_factory=dict)
    recent: float | None = None


class Ended(Struct):
    """One row of the accuracy matrix: the learner when a period had been learned in full.

    Attributes:
        period: its number.
        group: under which its anchors are kept: its task, or its number.
        offset: of the last event before the one that ended it.
        accuracy: on the anchors of each task or period.
    """

    period: int
    group: int
    offset: int
    accuracy: dict[int, float]


class Trial(Struct):
    """A candidate beside the champion.

    Attributes:
        version, champion: who is compared.
        n: rows that came after both.
        mean, low, high: the candidate's lead on them, and its interval.
        alpha: how likely that interval may ever miss the mean.
        points: [n, mean, low, high] along the way.
        report: of the gate, as `Judgement.report`.
        over: whether it has ended.
    """

    version: int
    champion: int
    n: int = 0
    mean: float = 0.0
    low: float = -1.0
    high: float = 1.0
    alpha: float = 0.05
    points: list[tuple[int, float, float, float]] = field(default_factory=list)
    report: dict[str, Any] | None = None
    over: bool = False


class Progress(Struct):
    """All of it. What is not there has its default, and what is unknown is passed over.

    Attributes:
        time: when it was written, in seconds since 1970.
        pid: of the trainer.
        offset: of the last event taken in.
        rows, steps, period, task: as in the trainer's `Position`.
        recent, of_period: [right, all] rows before they were learned from, the latest and those of
            the open period.
        anchors: anchor rows of each task or period.
        best: the highest accuracy that a champion had on them since the task or period was open.
        points, matrix: oldest first.
        learned: by version, oldest first.
        seen: rows at offsets up to here were counted in `learned`.
        unreleased: [rows, time of the oldest] that were learned and are in no version yet.
        trial: the candidate on trial, or the last one.
        guardrail: of the champion, as `Guardrail.report`.

    Example:
        >>> Progress(time=0.0, pid=1, offset=7).matrix
        []
    """

    time: float
    pid: int
    offset: int
    rows: int = 0
    steps: int = 0
    period: int = -1
    task: int | None = None
    recent: tuple[int, int] = (0, 0)
    of_period: tuple[int, int] = (0, 0)
    anchors: dict[int, int] = field(default_factory=dict)
    best: dict[int, float] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    matrix: list[Ended] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    seen: int = 0
    unreleased: tuple[int, float | None] = (0, None)
    trial: Trial | None = None
    guardrail: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(Progress)


def read_progress(path: Path) -> Progress | str:
    """Read what a trainer wrote; where that cannot be, say why in a sentence.

    Example:
        >>> read_progress(Path("no such file"))
        'the trainer has written nothing yet'
    """
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return "the trainer has written nothing yet"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:  # msgspec's own descend from it
        return f"{path.name} is damaged: {str(error)[:100]}"
