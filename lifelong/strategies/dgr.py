"""DGR: deep generative replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import GeneratorCollapsed, InvalidBatch, UnknownName
from lifelong.core.features import head_of
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets.generators import GAN, VAE, Generator, LatentDiffusion, check_rows
from lifelong.strategies.apprentice import Apprentice, Make
from lifelong.strategies.er_ace import counted
from lifelong.strategies.held_out import check_held
from lifelong.strategies.scholar import PROBE, Scholar, compared
from lifelong.strategies.teacher import of_classes, of_one_class, softened
from lifelong.strategies.trigger import Trigger

KINDS: Mapping[str, Make] = {"vae": VAE, "gan": GAN, "diffusion": LatentDiffusion}
"""The generators by name."""
_OTHERS = 'soft targets are probabilities of classes: for other targets take targets="hard"'
_LIKELIEST = (
    "made rows get the likeliest class as their label: give an output for each class, or "
    "floating-point targets"
)


class DGR(Strategy):
    """Replay rows that a generator makes, labelled as the model would have before this task.

    loss = 1/t * mean loss of new rows + (1 - 1/t) * mean loss of made rows, in task t; for the
    generator, which learns from the same rows in `after_step`, as for the model
    Shin et al. 2017, arXiv:1705.08690; the weights are van de Ven & Tolias 2018's,
    arXiv:1809.10635, and so are "soft" targets, with which made rows count by
    T**2 * cross-entropy to the last model's softened answers.

    New rows count by the weights that they come with; where none counts, as behind a strategy that
    takes their loss over (`ERACE`), each counts 1 here. With soft targets the loss is not divided
    by t, which Adam does not notice. A model that wants the task answers each made row under one
    old task, drawn at random, in place of all of them.
    With a tolerance the generator learns only while held-out rows show that too much would be lost
    without: `lifelong.strategies.trigger.Trigger` says how. Those rows are all that it keeps
    and that `forget` can drop; what the generator has learned of others stays.

    Args:
        kind: "vae", "gan" or "diffusion" (of what an autoencoder makes of the rows).
        targets: "hard", the last model's most likely class, or "soft", its probabilities.
        temperature: T, which softens both sides.
        rows: how many to make for each batch; None for as many as are new.
        width: of each of the two hidden layers of the generator.
        lr: of the generator's Adam; None for what suits its kind.
        scale: what full brightness is, for rows from 0 to it; None for 255 for bytes, and for
            floats of any size.
        strict: raise where the generator has collapsed at the end of a task.
        tolerance: the loss of held-out accuracy from which the generator learns; None to let it
            learn at every step, and to hold no rows out.
        every: how many steps lie between measurements of it.
        held: how many held-out rows to keep for that.

    Attributes:
        reports: the fidelity of the generator at the end of each task in which it learned.

    Raises:
        UnknownName: there is no such kind.
        ValueError: a number is out of range; from the step, a model without a head.
        InvalidBatch: from the step, rows of which none can be made, or outputs that cannot be the
            targets of such.

    Example:
        >>> DGR(kind="gan", targets="soft").temperature
        2.0
    """

    state: ClassVar[tuple[str, ...]] = ("apprentice", "scholar", "trigger", "tasks", "reports")
    row_losses = True

    def __init__(
        self,
        kind: str = "vae",
        *,
        targets: str = "hard",
        temperature: float = 2.0,
        rows: int | None = None,
        width: int = 400,
        lr: float | None = None,
        scale: float | None = None,
        strict: bool = True,
        tolerance: float | None = None,
        every: int = 50,
        held: int = 500,
    ) -> None:
        if kind not in KINDS:
            raise UnknownName("kind of generator", kind, KINDS)
        if targets not in ("hard", "soft"):
            raise ValueError(f"targets is {targets!r}; choose 'hard' or 'soft'")
        for name, number in {"temperature": temperature, "scale": scale or 1.0}.items():
            if not 0 < number < float("inf"):
                raise ValueError(f"{name} is {number}; it must be positive")
        for name, count in {"rows": rows or 1, "width": width}.items():
            if count < 1:
                raise ValueError(f"{name} is {count}; it must be 1 or more")
        self.targets, self.temperature, self.rows = targets, temperature, rows
        self.scale, self.strict = scale, strict
        self.apprentice = Apprentice(partial(KINDS[kind], hidden=(width, width)), lr)
        self.scholar = Scholar()
        self.trigger = Trigger(tolerance, every=every, capacity=held)
        self.tolerance, self.every, self.held = tolerance, every, held
        self.tasks = 0
        """How many tasks the scholar knows."""
        self.reports: list[dict[str, float]] = []
        self._made = slice(0)
        self._taught = torch.empty(0)
        self._weight = torch.empty(0)
        self._held: Batch | None = None

    def attach(self, device: torch.device, seed: int) -> None:
        """Tell the generator and the scholar where to compute, too."""
        super().attach(device, seed)
        self.apprentice.device = self.scholar.device = device

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Append rows as the last generator makes them, weighted by the number of old tasks."""
        self.check(batch)
        head_of(learner.model)  # whose features tell at the end of the task what has been made
        batch, self._held = self.trigger.withhold(batch)
        self._made = slice(0)
        self._weight = counted(batch)
        if not self.scholar:
            return batch
        made, self._taught = self.replayed(learner, batch)
        self._made = slice(len(batch), len(batch) + len(made))
        share = self.tasks / len(made) if self.targets == "hard" else 0.0
        return batch.extended(replace(made, weight=(share * self._weight.sum()).repeat(len(made))))

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """With soft targets: cross-entropy to the last model's softened answers."""
        del learner
        check_held(self._held, output)
        self.check_answers(batch, output)
        if self.targets == "hard" or self._made.start is None:
            return 0.0
        # Classes that are new since are taught to be none of the old rows.
        return softened(output[self._made], self._taught, self.temperature, self.tasks)

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Let the generator learn from the new rows and from those that it made before."""
        del output
        held, self._held = self._held, None
        self.trigger.saw(batch)
        if held is not None:
            self.trigger.keep(held, self.known(learner, held), self.tasks, self.generator)
        self.trigger.watch(learner, self.tasks)
        if not self.trigger.on:
            return
        new, made = replace(batch.rows(slice(batch.new)), weight=self._weight), None
        assert isinstance(new.x, Tensor)
        if self.apprentice.net is None:
            self.apprentice.begin(new.x, self.brightness(new.x), self.generator)
        if self._made.start is not None:
            made = batch.rows(self._made)
        self.study(learner, new, made)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Measure the generator; then take it and the model as they are for the next task.

        Raises:
            GeneratorCollapsed: the generator has collapsed; the task stays open.
        """
        if self.apprentice.net is None:
            return
        weights = self.apprentice.weights()
        if self.trigger.on:
            self.examine(learner, data, weights)
        self.trigger.close(learner, self.tasks)
        self.tasks += 1
        self.scholar.become(learner, weights, next(iter(data)))

    def forget(self, keys: Tensor) -> int:
        """Erase held-out rows, and count them."""
        self._held = None  # of a step that failed
        return self.trigger.held.forget(keys)

    def examine(self, learner: Learner, data: Iterable[Batch], weights: dict[str, Tensor]) -> None:
        """Measure what the generator makes with these weights, and report it."""
        made = self.sampled(self.apprentice.frozen(weights), PROBE)
        before = None
        if self.scholar:
            past = self.scholar.generator(self.apprentice)
            before = self.sampled(past, PROBE, past=True)
        found = compared(learner, data, made, before, 1 / (self.tasks + 1))
        if self.strict and found.collapsed:
            raise GeneratorCollapsed(
                f"the generator of {type(self).__name__} has collapsed ({found}); learn longer and "
                "end the task again, choose another kind, width or lr, or strict=False"
            )
        self.reports = [*self.reports, asdict(found)]

    def known(self, learner: Learner, rows: Batch) -> Tensor:
        """Tell for each row whether what is replayed teaches it right, (rows,), on the CPU."""
        if not self.scholar:
            return torch.zeros(len(rows), dtype=torch.bool)
        assert isinstance(rows.x, Tensor)
        return (self.scholar.answers(learner, rows.x, rows.task).argmax(1) == rows.y).cpu()

    def replayed(self, learner: Learner, batch: Batch) -> tuple[Batch, Tensor]:
        """Make rows with labels; and the scholar's answers to them, (rows, width)."""
        rows = self.rows or batch.new
        assert isinstance(batch.x, Tensor)
        x = self.sampled(self.scholar.generator(self.apprentice), rows, past=True)
        x = x.to(batch.x.dtype)  # generators make float32
        known = torch.tensor(self.scholar.known if learner.task_aware else [-1])
        task = known[torch.randint(len(known), (rows,), generator=self.generator)].to(x.device)
        taught = self.scholar.answers(learner, x, task)
        if batch.y.is_floating_point():
            return Batch.of(
                x, taught.view(rows, *batch.y.shape[1:]).to(batch.y.dtype), task
            ), taught
        return Batch.of(x, taught.argmax(1), task), taught

    def study(self, learner: Learner, new: Batch, made: Batch | None) -> None:
        """Let the generator take one step, its rows weighted as the model's are."""
        del learner
        weight = counted(new)
        if made is not None:
            again = (self.tasks / len(made) * weight.sum()).repeat(len(made))
            new, weight = new.extended(made), torch.cat((weight, again))
        assert isinstance(new.x, Tensor)
        self.apprentice.learn(new.x, new.y, weight, self.generator)

    def sampled(self, generator: Generator, rows: int, *, past: bool = False) -> Tensor:
        """Make rows of all that a generator knows; `past` if it is the scholar's."""
        del past
        with torch.no_grad():
            return generator.sample(rows, self.generator)

    def check(self, batch: Batch) -> None:
        """Raise `InvalidBatch` unless the new rows are of a kind that can be made."""
        # To look at values would stall a GPU.
        device = next(iter(batch.columns()))[1].device
        check_rows(batch.x, self.scale if device.type == "cpu" else None)
        assert isinstance(batch.x, Tensor)
        net = self.apprentice.net
        if net is not None and (batch.x.shape[1:], batch.x.dtype == torch.uint8) != (
            torch.Size(net.shape),
            net.bytes,
        ):
            raise InvalidBatch(
                f"rows of {batch.x.dtype} and shape {tuple(batch.x.shape[1:])}; the generator makes"
                f" {'bytes' if net.bytes else 'floats'} of shape {net.shape}: keep to those"
            )
        if self.tolerance is not None and batch.y.is_floating_point():
            raise InvalidBatch(
                f"y is {batch.y.dtype}; a tolerance counts right answers: give classes, or None"
            )
        if batch.y.ndim > 1 and not batch.y.is_floating_point():
            raise InvalidBatch(
                f"y has shape {tuple(batch.y.shape)}; made rows get one class, (rows,), or floats"
            )

    def check_answers(self, batch: Batch, output: Any) -> None:
        """Raise `InvalidBatch` unless made rows can be learned from as these are."""
        check_one(batch, output, type(self).__name__)
        y = batch.y
        if self.targets == "soft":
            of_classes(output, batch, _OTHERS)
        elif not y.is_floating_point():
            of_one_class(output, batch, _LIKELIEST)
        elif prod(output.shape[1:]) != prod(y.shape[1:]):
            raise InvalidBatch(
                f"outputs of shape {tuple(output.shape)} for y of shape {tuple(y.shape)}; made "
                "rows get what the model answers as their y: give outputs of its size, or replay "
                "rows from a memory (Replay)"
            )

    def brightness(self, x: Tensor) -> float | None:
        """Say what full brightness is in these rows; None if they have none."""
        return 255.0 if self.scale is None and x.dtype == torch.uint8 else self.scale


def check_one(batch: Batch, output: Any, name: str) -> None:
    """Raise `InvalidBatch` unless the inputs, as strategies behind leave them, and outputs are one.

    Example:
        >>> check_one(Batch.of(torch.zeros(2, 1), torch.zeros(2)), {"a": torch.zeros(2)}, "DGR")
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: the model's output is a dict; DGR compares made rows by \
it, so give one tensor: lifelong.nets.Logits(model, output=...) picks one of several
    """
    if not isinstance(batch.x, Tensor):
        raise InvalidBatch(
            f"x is a dict of {sorted(batch.x)} behind {name}, whose generator learns rows as they "
            "come, in one tensor: leave out what makes a dict of them (Latents), or replay rows "
            "from a memory (Replay)"
        )
    if not isinstance(output, Tensor):
        raise InvalidBatch(
            f"the model's output is a {type(output).__name__}; {name} compares made rows by it, so "
            "give one tensor: lifelong.nets.Logits(model, output=...) picks one of several"
        )
