"""How a trainer learns: plain numbers, checked without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from lifelong.serve.outliers import Outliers


@dataclass(frozen=True, slots=True)
class Plan:
    """How a trainer learns; together with the log it decides every weight.

    Attributes:
        batch: rows a step.
        period: rows after which strategies consolidate and a new period begins; 0 for never.
            Rows that come with a task begin a new period when the task changes.
        window: rows of the period's end that strategies consolidate on.
        anchors: the share of labelled rows that never trains.
        anchor_rows: anchors kept of each task or period, at most.
        anchor_groups: tasks and periods that anchors are kept of, at most; the newer the denser.
        quota: rows a period that one source may send; 0 for any number.
        deviations: above which a row's norm or loss keeps it out; 0 switches that off.
        warmup: rows before the first one is kept out for that.
        every: events between checkpoints.

    Raises:
        ValueError: a number is out of range.
    """

    batch: int = 16
    period: int = 1000
    window: int = 512
    anchors: float = 0.1
    anchor_rows: int = 500
    anchor_groups: int = 100
    quota: int = 0
    deviations: float = 6.0
    warmup: int = 200
    every: int = 2000

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("window", 1), ("every", 1), ("period", 0), ("quota", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        # Refuse here, not when the service has started, what these refuse.
        check_anchors(self.anchors, self.anchor_rows, self.anchor_groups)
        Outliers(self.deviations, warmup=self.warmup)


def check_anchors(share: float, limit: int, most: int) -> None:
    """Check what anchors are made of.

    Raises:
        ValueError: the share or a limit is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"anchors is {share}; it must be a share, 0 or more and below 1")
    if limit < 1:
        raise ValueError(f"the limit of anchors is {limit}; it must be 1 row or more")
    if most < 4:
        raise ValueError(f"the limit of groups is {most}; it must be 4 or more")
