"""What comes to a learner: each batch is looked at, told its task and moved to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch
from lifelong.core.faults import bad_rows, finite_sum
from lifelong.core.received import no_batch, no_task

if TYPE_CHECKING:
    from lifelong.core.learner import Learner


class Intake:
    """Take batches in for a learner; of one that is as it should be, nothing is copied."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def take(self, batch: Batch) -> Batch:
        """Give a batch as the learner can work on it.

        Raises:
            InvalidBatch: it is none, its columns do not fit together, it lies on another device, or
                there is no saying which task its rows belong to.
        """
        try:
            batch.check()
        except AttributeError:
            if isinstance(batch, Batch):
                raise
            raise no_batch(batch) from None
        device = self._learner.device
        if batch.lies_on(device):
            return self._with_task(batch)
        foreign = {str(column.device) for _, column in batch.columns()} - {"cpu", str(device)}
        if foreign:
            raise InvalidBatch(
                f"a batch on {', '.join(sorted(foreign))}, the learner is on {device}; "
                "move it there, or leave it on the CPU"
            )
        return self._with_task(batch).to(device)

    def all_of(self, data: Iterable[Batch]) -> Iterable[Batch]:
        """Give batches as `take` does, as often as one iterates, if all their rows are finite."""
        return _Taken(self, data)

    def _with_task(self, batch: Batch) -> Batch:
        """Take rows that do not say their task for the open one's."""
        learner, task = self._learner, batch.task
        lost = learner.current is None and bool(learner.tasks)
        # To look at those on a GPU would stall it.
        if (lost or not task.is_cuda) and task.min().item() >= 0:
            return batch
        if lost:
            raise no_task(learner.tasks[-1].id)
        task = task.where(task >= 0, learner.current or 0)
        return Batch(batch.x, batch.y, task, batch.new, batch.key, batch.weight)


class _Taken:
    def __init__(self, intake: Intake, data: Iterable[Batch]) -> None:
        self._intake = intake
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._data:
            taken = self._intake.take(batch)
            # Sums keep every NaN and infinity; where one is large, each row is looked at.
            if not all(finite_sum(column) for _, column in taken.columns()) and (
                bad := bad_rows(taken)
            ):
                raise bad
            yield taken
