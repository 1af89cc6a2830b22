"""Rows held out of learning, to tell by them what is forgotten."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lifelong.core.batch import Batch, batch_of_columns
from lifelong.core.errors import InvalidBatch
from lifelong.core.faults import bad_rows, check_labels
from lifelong.core.learner import Learner
from lifelong.core.random import scattered
from lifelong.strategies.class_ids import check_class_ids

_CLASSES = (
    "held-out rows are counted by right answers, so they want one class each: hold none out (no "
    "feedback, no tolerance)"
)
_NO_KEYS = (
    "rows are held out by their keys: give each its id, Batch.of(..., key=ids), or hold none out "
    "(no feedback, no tolerance)"
)
_SALT = 1  # not to be the choice of strategies that set rows aside for another purpose


def withhold(batch: Batch, share: float) -> tuple[Batch, Batch | None]:
    """Split a batch of new rows into those to learn from and those held out, by their keys.

    Rows without a key (-1) are never held out, nor all rows of a batch.

    Raises:
        InvalidBatch: rows have been appended already, whose places would change, or the targets
            are no classes, or values of rows that are held out are not finite.

    Example:
        >>> import torch
        >>> batch = Batch.of(torch.zeros(100, 1), torch.zeros(100).long(), key=torch.arange(100))
        >>> rest, held = withhold(batch, 0.1)
        >>> len(rest) + len(held)
        100
    """
    if len(batch) > batch.new:
        raise InvalidBatch(
            f"{len(batch) - batch.new} rows have been appended before some could be held out; "
            "put what holds rows out (Adaptive with feedback, DGR with a tolerance) first in the "
            "list of strategies"
        )
    check_class_ids(batch.y, _CLASSES)
    out = (scattered(batch.key, _SALT) < share) & (batch.key != -1)
    if not 0 < int(out.sum()) < len(batch):
        return batch, None
    held = batch.rows(out)
    # Nothing else would look at their values; that of `out` has been waited for already.
    if bad_rows(held) is not None and (bad := bad_rows(batch)) is not None:
        raise bad  # by their places among the rows that were given
    return batch.rows(~out), held


def check_keys(batch: Batch) -> None:
    """Raise `InvalidBatch` if no row has a key: then none would ever be held out.

    Example:
        >>> import torch
        >>> check_keys(Batch.of(torch.zeros(2, 1), torch.zeros(2).long(), key=torch.tensor([3, 4])))
    """
    if bool((batch.key == -1).all()):
        raise InvalidBatch(f"none of these {len(batch)} rows has a key; {_NO_KEYS}")


def check_held(held: Batch | None, output: Any) -> None:
    """Look at what held-out rows will be measured by: an output for the label of each.

    Args:
        held: the rows, if there are some.
        output: of the model, for those that are learned from.

    Raises:
        InvalidBatch: the outputs are not (rows, classes), or a label has none among them (looked
            at on the CPU alone, as a GPU would be stalled).

    Example:
        >>> import torch
        >>> check_held(Batch.of(torch.zeros(2, 1), torch.tensor([0, 4])), torch.zeros(3, 5))
    """
    if held is None:
        return
    if not isinstance(output, Tensor) or output.ndim != 2:
        tensor = isinstance(output, Tensor)
        found = f"of shape {tuple(output.shape)}" if tensor else f"in a {type(output).__name__}"
        raise InvalidBatch(f"outputs {found}; {_CLASSES}")
    if held.y.is_cpu:
        check_labels(output, held.y.long())


def columns_of(rows: Batch) -> dict[str, Tensor]:
    """Give the columns of rows that a memory keeps to measure by."""
    return {name: column for name, column in rows.columns() if name != "weight"}


def right(learner: Learner, held: dict[str, Tensor]) -> Tensor:
    """Tell for each held-out row whether the model is right about it now, (rows,).

    Raises:
        InvalidBatch: the targets are no classes.
    """
    rows = batch_of_columns(held)
    output = learner.predict(rows.x, rows.task)
    check_class_ids(rows.y, _CLASSES)
    if output.ndim != 2:
        raise InvalidBatch(
            f"outputs {tuple(output.shape)} for targets {tuple(rows.y.shape)}; {_CLASSES}"
        )
    return output.argmax(1).cpu() == rows.y


def forgotten(held: dict[str, Tensor], found: Tensor, period: int) -> float:
    """Compute the mean of (right then) - (right now) over the rows of earlier periods.

    Example:
        >>> import torch
        >>> held = {"period": torch.tensor([0, 0, 1]), "right": torch.tensor([True, True, False])}
        >>> forgotten(held, torch.tensor([True, False, True]), period=1)
        0.5
    """
    old = held["period"] < period
    if not bool(old.any()):
        return 0.0
    return float(held["right"][old].float().mean() - found[old].float().mean())
