"""A model that goes on learning: the one object of this library that everything else serves."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Never, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lifelong.core import checkpoint, growth, restore
from lifelong.core.arguments import (
    check_parts,
    check_still,
    check_taught,
    device_of,
    settings_of,
    strategies_of,
)
from lifelong.core.batch import Batch, Inputs
from lifelong.core.errors import EmptyTask, InvalidBatch, LifelongError, NonFiniteLoss
from lifelong.core.faults import nothing_to_learn
from lifelong.core.forward import evaluating, forward, wants_task
from lifelong.core.guard import Guard, remembered
from lifelong.core.intake import Intake
from lifelong.core.loss import (
    RowLoss,
    checked_output,
    cross_entropy,
    mean_loss,
    of_each_row,
    row_loss,
)
from lifelong.core.random import RandomState
from lifelong.core.received import (
    count_of,
    extended_by,
    names_of,
    never_ended,
    query_of,
    scalar_of,
    spec_of,
)
from lifelong.core.strategy import State, Strategy, acts_at
from lifelong.core.task import HasData, TaskLike, TaskSpec

Precision = Literal["fp32", "bf16", "fp16"]
WAITED = 1000
"""Steps without a task or a consolidation after which strategies that wait for one are named."""
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Keep a model learning from a stream of tasks or batches without forgetting what it knew.

    A step: strategies `extend` the batch; the model's row losses are averaged (by weight) and the
    strategies' `penalty` terms added; after the backward pass, and the unscaling of fp16, they
    `project` the gradients, which are then clipped; after the optimizer's step they see the new
    weights (`after_step`). At the end of a task they `consolidate`.

    Args:
        model: any module. One whose `forward` declares `task` gets the (rows,) task ids; modules
            inside it with a method `grow(task)` grow when a task begins.
        optimizer: over exactly the trainable parameters of the model; None if it has none, and
            what it knows is computed, as by `Analytic`: then nothing goes backward.
        strategies: in the order in which they act; none is plain fine-tuning.
        loss: `loss(output, batch)` with a value a row, or a loss of torch on (output, y).
        seed: of everything random in here; torch's default generators are left alone.
        device: where to compute; the model's own by default. Batches on the CPU are moved there.
        precision: of the forward pass; "fp16" scales the loss.
        compile: run training steps through `torch.compile`.
        accumulate: how many batches make one step of the optimizer.
        clip: largest norm of the whole gradient.
        scheduler: stepped after each step of the optimizer.

    Raises:
        ValueError: no trainable parameters but an optimizer, none but something that needs one, or
            an argument of the wrong kind or out of range.
        OptimizerMismatch: the optimizer misses parameters or has foreign ones.

    Example:
        >>> net = nn.Linear(4, 3)
        >>> learner = Learner(net, torch.optim.SGD(net.parameters(), lr=0.1))
        >>> learner.begin_task(0)
        >>> loss = learner.observe(Batch.of(torch.zeros(2, 4), torch.tensor([0, 1])))
        >>> learner.end_task([Batch.of(torch.zeros(2, 4), torch.tensor([0, 1]))])
        >>> learner.predict(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        strategies: Sequence[Strategy] = (),
        *,
        loss: Callable[..., Tensor] = cross_entropy,
        seed: int = 0,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
        accumulate: int = 1,
        clip: float | None = None,
        scheduler: LRScheduler | None = None,
    ) -> None:
        check_parts(model, optimizer, loss, seed)
        listed = strategies_of(strategies)
        check_taught(model, listed)
        accumulate, clip = settings_of(precision, accumulate, clip)
        growth.check_optimizer(model, optimizer)
        if optimizer is None:
            check_still(listed, precision, accumulate, clip, scheduler)
        self.device = device_of(device, model)
        self.model = model
        self.optimizer = optimizer
        self.strategies = listed
        self.scheduler = scheduler
        self.model.to(self.device)
        self.precision: Precision = precision
        self.accumulate = accumulate
        self.clip = clip
        self.tasks: list[TaskSpec] = []
        """Every task begun so far, in order."""
        self.current: int | None = None
        """The id of the task that is open."""
        self.batches = 0
        """Batches observed."""
        self.pending = 0
        """Batches whose gradients have been accumulated and wait for a step."""
        self.steps = 0
        """Steps of the optimizer; without one, batches."""
        self.parameters = growth.trainable(model)
        """The trainable parameters by name."""
        self.random = RandomState(_derived(seed, "model"), self.device)
        self.task_aware = wants_task(model)
        self._loss: RowLoss = of_each_row(
            row_loss(loss), [type(s).__name__ for s in listed if s.row_losses]
        )
        self._train_model: Callable[..., Any] = torch.compile(model) if compile else model
        self._scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None
        if self._scaler is not None:
            # The scale is there from the start: a resumed learner may have to step before a loss.
            self._scaler.scale(torch.zeros((), device=self.device))
        self._guard = Guard(self)
        self._intake = Intake(self)
        for index, strategy in enumerate(self.strategies):
            strategy.attach(self.device, _derived(seed, f"strategy {index}"))
        self._extending = [s for s in self.strategies if acts_at(s, "extend")]
        self._penalising = [s for s in self.strategies if acts_at(s, "penalty")]
        self._projecting = [s for s in self.strategies if acts_at(s, "project")]
        self._watching = [s for s in self.strategies if acts_at(s, "after_step")]
        self._consolidating = [s for s in self.strategies if acts_at(s, "consolidate")]
        self._waiting = bool(self._consolidating)  # for the end of a task, of which nothing is told
        # Decided once, so that no step has to ask whether anything trains.
        self._descend = self._backward if optimizer is not None else self._look
        self._move = self._step if optimizer is not None else self._count
        if not model.training:
            model.train()
        self._guard.refresh()

    def __repr__(self) -> str:
        """Show the parts, the tasks and how far learning has come.

        Example:
            >>> net = nn.Linear(4, 3)
            >>> Learner(net, torch.optim.SGD(net.parameters(), lr=0.1))
            Learner(Linear of 15 parameters, SGD, [], tasks [], 0 steps)
        """
        count = sum(parameter.numel() for parameter in self.model.parameters())
        tasks = [task.id for task in self.tasks]
        now = "" if self.current is None else f", {self.current} open"
        return (
            f"Learner({type(self.model).__name__} of {count} parameters, "
            f"{type(self.optimizer).__name__ if self.optimizer is not None else 'no optimizer'}, "
            f"{self.strategies}, tasks {tasks}{now}, "
            f"{self.steps} steps)"
        )

    def begin_task(self, task: int | TaskLike) -> None:
        """Open a task: the model grows for it, and the optimizer takes the new parameters over.

        Opening the task that is open already changes nothing, so that a resumed loop may.

        Args:
            task: an id, or anything with `id` and `classes`, such as a stream's task.

        Raises:
            ValueError: another task is open, a head needs to know the classes, or it is no task.
            OptimizerMismatch: the model gains parameters to train, and there is no optimizer.
        """
        spec = spec_of(task)
        if self.current == spec.id:
            if spec.classes not in ((), self.tasks[-1].classes):
                raise ValueError(
                    f"task {spec.id} is open with classes {list(self.tasks[-1].classes)}, not "
                    f"{list(spec.classes)}; call end_task(data) before it gains others"
                )
            return
        if self.current is not None:
            raise ValueError(
                f"task {self.current} is still open; call end_task(data) before task {spec.id}"
            )
        with self.random:
            growth.grow(self.model, spec, self.optimizer, still=self.optimizer is None)
        self.tasks.append(spec)
        self.current, self._waiting = spec.id, False
        self.grown()

    def observe(self, batch: Batch, *more: Never) -> Tensor:
        """Learn from one batch: one step, or a part of one when gradients accumulate.

        Returns:
            The loss with all penalties, a scalar, detached; reading it waits for a GPU.

        Raises:
            InvalidBatch: columns of unequal length, NaN, another device, a label without output.
            NonFiniteLoss: the loss or the gradient is not finite.

        Whatever it raises, the learner is as it was before the call; only an error in a
        strategy's own `after_step` comes when the step has been taken.
        """
        if more:
            raise InvalidBatch(f"observe takes one batch, not {1 + len(more)}: Batch.of(x, y)")
        if self._waiting and self.steps >= WAITED:
            self._waiting = False
            warnings.warn(never_ended(self._consolidating, self.steps), stacklevel=2)
        batch = self._intake.take(batch)
        with self._guard, self.random:
            for strategy in self._extending:
                batch = extended_by(strategy, strategy.extend(self, batch))
            with self.autocast():
                output = forward(
                    self._train_model, batch.x, batch.task if self.task_aware else None
                )
            loss = self.mean_loss(output, batch)
            for strategy in self._penalising:
                loss = loss + scalar_of(strategy, strategy.penalty(self, batch, output))
            self._descend(loss, batch, output)
            self.batches += 1
            self.pending += 1
            if self.pending == self.accumulate:
                self._move(batch, output)
        if self._watching:
            output = _detached(output)
            for strategy in self._watching:
                strategy.after_step(self, batch, output)
        return loss.detach()

    def end_task(self, data: Iterable[Batch] | HasData) -> None:
        """Close the open task: strategies consolidate what it taught.

        Args:
            data: the task's rows in batches, or a stream's task; iterated more than once.

        Raises:
            EmptyTask: there is not one batch in it; the task stays open.
            ValueError: no task is open, or the data can be iterated over only once.
        """
        if self.current is None:
            raise ValueError("no task is open; call begin_task(task) first")
        self.consolidate(data)
        self.current = None

    def consolidate(self, data: Iterable[Batch] | HasData) -> None:
        """Let strategies consolidate without a task's end: by a cadence, or when drift says so.

        Gradients that have been accumulated for less than a whole step make one before, with the
        mean of their batches. When a strategy fails, or a row is not finite, all are as they were
        before, and the model.
        """
        data = data.data if isinstance(data, HasData) else data
        if isinstance(data, Batch) or not isinstance(data, Iterable):
            raise ValueError(
                f"data is a {type(data).__name__}; give a list of batches, such as [batch], or a "
                "stream's task"
            )
        if isinstance(data, Iterator):
            raise ValueError(
                f"data is a {type(data).__name__}, which can be iterated over only once; "
                "give a list of batches, or a stream's task"
            )
        rows = self._intake.all_of(data)
        first = next(iter(rows), None)
        if first is None:
            raise EmptyTask("no batches to consolidate; give those that were learned from")
        undo = [strategy.undo() for strategy in self._consolidating]
        if undo or self.pending:
            undo.append(remembered(self))
        try:
            if self.pending:
                with self._guard, self.random:
                    gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
                    torch._foreach_mul_(gradients, self.accumulate / self.pending)
                    self._step(first, None)
            with self.random:
                for strategy in self._consolidating:
                    strategy.consolidate(self, rows)
        except BaseException as error:
            for put_back in undo:
                put_back()
            if isinstance(error, NonFiniteLoss):  # the rows' own fault, or that of what was learned
                for _ in rows:  # raises where they are not finite
                    pass
            raise
        self._waiting = False

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Compute the loss of each row, (rows,), or a scalar if that is all the loss gives."""
        return self._loss(output, batch)

    def mean_loss(self, output: Any, batch: Batch) -> Tensor:
        """Compute the mean of the rows' losses by the batch's weights, in the fewest operations."""
        return mean_loss(self._loss, output, batch)

    def predict(self, x: Inputs, task: int | Tensor | None = None, *, rows: int = 512) -> Tensor:
        """Compute the model's outputs in eval mode, `rows` at a time.

        Args:
            x: inputs, rows first.
            task: for a model that wants it: an id, (rows,) ids, or None where it is not known. A
                model that does not want it is called without, so one evaluation serves for both.
            rows: how many rows to compute at once.

        Returns:
            (rows, ...) outputs, on the learner's device.

        Raises:
            InvalidBatch: the task is neither an id nor a tensor of them, or x has no rows.
            ValueError: rows is below 1.
            UnknownTask: the model has never grown for a task.
        """
        query = query_of(x, task, rows)
        cuts = [slice(start, start + rows) for start in range(0, len(query), rows)]
        with evaluating(self.model), torch.no_grad(), self.random.kept(), self.autocast():
            parts = [self.output(query.rows(cut)) for cut in cuts]
        return torch.cat([checked_output(part) for part in parts])

    def grown(self) -> None:
        """Look at the model again after modules have been added to it."""
        self.parameters = growth.trainable(self.model)
        self._guard.refresh()

    def output(self, batch: Batch) -> Tensor:
        """Run the model on a batch as it stands, in its present mode, with task ids if it wants."""
        batch = batch.to(self.device)
        return forward(self.model, batch.x, batch.task if self.task_aware else None)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run at the learner's precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])

    def forget(self, keys: Tensor | Sequence[int]) -> dict[str, int]:
        """Drop every row with one of these ids from whatever strategies keep of it.

        Weights that were learned from the rows stay: to be rid of their influence, learn again
        from a log without them. Heads that are computed can be rid of it: see `Analytic`.

        Returns:
            How many entries each strategy has erased, by its class's name: of a row that came more
            than once it may have kept several.

        Raises:
            ValueError: the ids are no integers, or -1; nothing is dropped.
            LifelongError: what rows have taught cannot be taken back, as where a head was changed
                behind its strategy's back; they are dropped all the same, everywhere.
            TypeError: a strategy's `forget` returned no number; all have dropped the rows then.
        """
        keys = names_of(keys)
        failed: LifelongError | TypeError | None = None
        erased: dict[str, int] = {}
        for strategy in self.strategies:
            try:
                strategy.unlearn(self, keys)
            except LifelongError as error:
                failed = failed or error
            name, entries = type(strategy).__name__, strategy.forget(keys)
            try:
                erased[name] = erased.get(name, 0) + count_of(strategy, entries)
            except TypeError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return erased

    def state_dict(self) -> State:
        """Everything that changes and outlives a step, copied to the CPU.

        Raises:
            OptimizerMismatch: the model has gained parameters that the optimizer does not know of.
        """
        state: State = restore.copied(restore.gather(self))
        return state

    def load_state_dict(self, state: State) -> None:
        """Become the learner whose state this is: regrow, then fill. Afterwards learning goes on
        bit-identically (same device, threads and versions).

        Raises:
            StateMismatch: keys are missing, unknown or misshaped, the strategies are others, or
                tasks differ; the learner is as it was.
            ValueError: the model takes no state now, as when it is merged.
        """
        restore.fill(self, state)
        self._waiting = False

    def save(self, path: str | Path) -> None:
        """Write the whole learner to one file, atomically; see `lifelong.core.checkpoint`.

        Raises:
            OptimizerMismatch: as in `state_dict`; nothing is written.
            CheckpointError: it cannot be written.
        """
        checkpoint.save(path, restore.gather(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: nn.Module,
        optimizer: Optimizer | None,
        strategies: Sequence[Strategy] = (),
        **settings: Any,
    ) -> Self:
        """Make a learner as in the constructor and fill it from a file that `save` wrote.

        Raises:
            CheckpointError: the file is missing, truncated, altered, foreign or of another schema.
            StateMismatch: the state does not fit the model, optimizer or strategies.
        """
        state = checkpoint.load(path)
        learner = cls(model, optimizer, strategies, **settings)
        learner.load_state_dict(state)
        return learner

    def _backward(self, loss: Tensor, batch: Batch, output: Any) -> None:
        if not loss.requires_grad:
            raise nothing_to_learn(batch, self.current)
        self._guard.watch_loss(loss, batch, output)
        scaled = loss if self.accumulate == 1 else loss / self.accumulate
        (scaled if self._scaler is None else self._scaler.scale(scaled)).backward()  # type: ignore[no-untyped-call]
        self._guard.check_loss(batch, output)

    def _look(self, loss: Tensor, batch: Batch, output: Any) -> None:
        """Where nothing trains: only see that the loss is finite."""
        self._guard.watch_loss(loss, batch, output)
        self._guard.check_loss(batch, output)

    def _count(self, batch: Batch, output: Any) -> None:
        """Where nothing trains: only count the step."""
        del batch, output
        self.pending = 0
        self.steps += 1

    def _step(self, batch: Batch, output: Any) -> None:
        assert self.optimizer is not None
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
            found = self._scaler._found_inf_per_device(self.optimizer)
            overflow = any(bool(flag) for flag in found.values())
            if overflow and self._scaler.get_scale() <= 1:
                raise self._guard.explain(batch, output, "the gradient")
        else:
            overflow = False
        if not overflow:
            finite = None
            for strategy in self._projecting:
                finite = strategy.project(self)
            if not finite:
                self._guard.check_gradient(batch, output)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        for group in self.optimizer.param_groups:  # it may have some that do not train now
            for parameter in group["params"]:
                parameter.grad = None
        self.pending = 0
        if not overflow:
            self.steps += 1
            if self.scheduler is not None:
                self.scheduler.step()


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, dict):
        return {name: _detached(part) for name, part in output.items()}
    if type(output) in (list, tuple):
        return type(output)(_detached(part) for part in output)
    return output


def _derived(seed: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
