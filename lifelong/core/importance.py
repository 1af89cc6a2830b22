"""How much each parameter matters: exact moments of the gradients of single rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifelong.core.batch import Batch
from lifelong.core.closed_forms import Power
from lifelong.core.errors import EmptyTask, NonFiniteLoss
from lifelong.core.forward import forward, wants_task
from lifelong.core.row_gradients import RowMoments, RowsLoss
from lifelong.core.undisturbed import undisturbed

RowLoss = Callable[[Tensor, Batch], Tensor]
"""One loss for each row: (output, batch) -> (rows,)."""


def row_gradient_moment(
    model: nn.Module, rows_loss: RowsLoss, batches: Iterable[Batch], *, power: Power
) -> dict[str, Tensor]:
    """Average |g_n|**power over the rows n, where g_n is the gradient of row n's own loss.

    moment_k = (1 / rows) sum over n of |d loss_n / d theta_k|**power

    It is exact for every row, not the power of a batch's mean gradient, which is smaller by up to
    the number of rows in the batch and depends on how rows were put into batches.

    The model runs in eval mode, so that batch normalisation uses its running statistics and rows
    do not touch each other. Its training flags, buffers, gradients and the global random state
    are afterwards as before, also when an error is raised. Row weights (`Batch.weight`) are not
    used. Linear, convolution, embedding and norm modules cost about one forward and backward pass
    together; parameters used in any other way go through `torch.func.vmap`, and a model that
    vmap cannot follow (a branch on values) through one backward pass a row.

    Args:
        model: any module, called as `lifelong.core.forward.forward` does.
        rows_loss: (output, batch) -> (rows,), or an iterable of such losses (a generator does),
            whose moments add up: sum over losses c of |d loss_nc / d theta|**power.
        batches: rows, in batches of any size; gone over once.
        power: 1 for the mean magnitude, 2 for the mean square.

    Returns:
        By the name of each trainable parameter, as `model.named_parameters()` has it (shared
        parameters once), a tensor of its shape; in float32 where the parameter is narrower.

    Raises:
        EmptyTask: there are no batches.
        NonFiniteLoss: a moment is NaN or infinite.
        ValueError: `power` is neither 1 nor 2, a loss is not of shape (rows,), or a batch
            normalisation without running statistics makes each row's loss depend on the others.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> batch = Batch.of(torch.tensor([[1.0], [-3.0]]), torch.zeros(2))
        >>> outputs = lambda output, batch: output[:, 0]
        >>> row_gradient_moment(model, outputs, [batch], power=2)["weight"].item()
        5.0
        >>> row_gradient_moment(model, outputs, [batch], power=1)["weight"].item()
        2.0
    """
    if power not in (1, 2):
        raise ValueError(f"power is {power!r}; it must be 1 or 2")
    with undisturbed(model):
        moments = RowMoments(model, rows_loss, power)
        for batch in batches:
            moments.add(batch)
    if moments.rows == 0:
        raise EmptyTask("no batches to measure importance on; pass at least one row")
    means = {name: total.div_(moments.rows) for name, total in moments.sums.items()}
    _check_finite(means)
    return means


def fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    kind: Literal["empirical", "true", "sampled"] = "empirical",
    loss: RowLoss | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Measure the diagonal of the Fisher information, by which EWC weighs each parameter.

    empirical  F_k = (1 / rows) sum_n (d log p(y_n | x_n) / d theta_k)**2
    true       F_k = (1 / rows) sum_n sum_c p(c | x_n) (d log p(c | x_n) / d theta_k)**2
    sampled    as the empirical one, with y_n drawn once from p(. | x_n): the true one on average

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks",
    arXiv:1612.00796; on the kinds see Kunstner, Balles & Hennig 2019, arXiv:1905.12558, and
    van de Ven 2025, arXiv:2502.11756. "true" takes one backward pass for each class.

    Args:
        model: any module; for "true" and "sampled" with an output of (rows, classes).
        batches: rows, in batches of any size; "true" and "sampled" do not look at their labels.
        kind: which of the three.
        loss: (output, batch) -> (rows,), each row's -log p(y_n | x_n); cross-entropy by default.
            "true" and "sampled" call it with every class in turn as `batch.y`.
        generator: draws the labels of "sampled", which needs it.

    Returns:
        As `row_gradient_moment`, which also says what else can be raised.

    Raises:
        ValueError: the kind is unknown, "sampled" has no generator, or an output that should be
            (rows, classes) is not.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> batch = Batch.of(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        >>> fisher(model, [batch], kind="true")["weight"].round(decimals=4)
        tensor([[1., 0.],
                [1., 0.]])
    """
    if kind == "empirical":
        return row_gradient_moment(model, loss or _cross_entropy, batches, power=2)
    if kind == "true":
        return row_gradient_moment(model, _expected(loss), batches, power=2)
    if kind != "sampled":
        raise ValueError(f"kind is {kind!r}; it must be 'empirical', 'true' or 'sampled'")
    if generator is None:
        raise ValueError("kind 'sampled' draws labels; pass generator=torch.Generator()")
    drawn = _drawn(model, batches, loss, generator)
    return row_gradient_moment(model, loss or _cross_entropy, drawn, power=2)


def output_sensitivity(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Measure how much the squared length of the output answers to each parameter, as in MAS.

    omega_k = (1 / rows) sum over n of |d ||f(x_n)||_2**2 / d theta_k|

    Aljundi et al. 2018, "Memory aware synapses: learning what (not) to forget", arXiv:1711.09601.
    The magnitude is taken for each row, as in the paper's equation, not for a batch's mean.
    Labels are not looked at.

    Returns:
        As `row_gradient_moment`, which also says what can be raised.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 0.5)
        >>> batch = Batch.of(torch.tensor([[1.0], [3.0]]), torch.zeros(2))
        >>> output_sensitivity(model, [batch])["weight"].item()
        5.0
    """
    return row_gradient_moment(model, _squared_length, batches, power=1)


def _squared_length(output: Tensor, batch: Batch) -> Tensor:
    return output.reshape(len(batch), -1).square().sum(1)


def _cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    losses = F.cross_entropy(output, batch.y, reduction="none")
    return losses.reshape(len(batch), -1).sum(1)  # a sequence's log-likelihoods add up


def _log_probabilities(output: Tensor, batch: Batch, loss: RowLoss | None) -> Tensor:
    """Give log p(c | x_n), (rows, classes)."""
    if output.ndim != 2:
        raise ValueError(
            f"the output has shape {tuple(output.shape)}; 'true' and 'sampled' need "
            "(rows, classes); use kind='empirical'"
        )
    if loss is None:
        return F.log_softmax(output, 1)
    rows, classes = output.shape
    labels = [torch.full((rows,), c, device=output.device) for c in range(classes)]
    return -torch.stack([loss(output, replace(batch, y=y)) for y in labels], 1)


def _expected(loss: RowLoss | None) -> RowsLoss:
    def losses(output: Tensor, batch: Batch) -> Iterator[Tensor]:
        log_p = _log_probabilities(output, batch, loss)
        weight = (log_p.detach() / 2).exp()  # squared with the gradient: p(c | x)
        for c in range(log_p.shape[1]):
            yield weight[:, c] * log_p[:, c]

    return losses


def _drawn(
    model: nn.Module, batches: Iterable[Batch], loss: RowLoss | None, generator: torch.Generator
) -> Iterator[Batch]:
    device = next((parameter.device for parameter in model.parameters()), None)
    for given in batches:
        batch = given if device is None else given.to(device)
        with torch.no_grad():
            output = forward(model, batch.x, batch.task if wants_task(model) else None)
            p = _log_probabilities(output, batch, loss).float().exp()
        if not p.isfinite().all():
            raise NonFiniteLoss("the model's probabilities are not finite; check its inputs")
        y = torch.multinomial(p.to(generator.device), 1, generator=generator)
        yield replace(batch, y=y[:, 0].to(p.device))


def _check_finite(means: dict[str, Tensor]) -> None:
    held = {name: mean for name, mean in means.items() if mean.numel()}
    if not held:
        return
    # No value is negative, and a maximum of anything and NaN is NaN: one reading, one sync.
    device = next(iter(held.values())).device
    finite = torch.stack([mean.amax().isfinite().to(device) for mean in held.values()]).tolist()
    bad = [name for name, good in zip(held, finite, strict=True) if not good]
    if bad:
        raise NonFiniteLoss(
            f"the row gradients of {', '.join(bad)} are not finite; "
            "look for NaN or huge inputs, or train with a lower learning rate"
        )
