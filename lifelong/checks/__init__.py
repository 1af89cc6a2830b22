"""Check that a strategy keeps the promises that all strategies make.

    check_strategy(lambda: MyStrategy(strength=1.0))

or one by one, in a test of your own:

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
    def test_my_strategy(check):
        check(lambda: MyStrategy(strength=1.0))

Strategies are tried on small models and streams made in here, each check in a second or less:
alone, with replay, with a head that grows, with a model that wants the task, with LoRA, in bf16,
and with gradients that accumulate.

    makes_strategies            strategies are made, and `state` names what they have
    keeps_plain_state           the state is tensors, numbers, strings, None, lists and dicts
    leaves_inputs_alone         batches are not changed, and predicting changes nothing
    resumes_bit_for_bit         saved and loaded anywhere, it goes on as if it had never stopped
    undoes_a_failing_step       a bad batch raises and leaves everything as it was
    draws_no_global_randomness  chance comes from the strategy's own generator
    keeps_to_itself             equal seeds give equal results; instances share nothing
    stays_bounded               the state stops growing
    forgets_rows                after `forget(keys)` no trace of those rows is in the state
    refuses_other_states        keys missing or unknown, or other shapes, are refused
    beats_naive                 it forgets less than plain training
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lifelong.checks.forgetting import beats_naive as _beats_naive
from lifelong.checks.keeping import (
    forgets_rows,
    keeps_plain_state,
    makes_strategies,
    refuses_other_states,
    stays_bounded,
)
from lifelong.checks.learning import (
    draws_no_global_randomness,
    keeps_to_itself,
    leaves_inputs_alone,
    resumes_bit_for_bit,
    undoes_a_failing_step,
)
from lifelong.checks.settings import Make, OnNetwork, on_device
from lifelong.checks.states import CheckFailed

CHECKS: dict[str, Callable[[Make], None]] = {
    "makes_strategies": makes_strategies,
    "keeps_plain_state": keeps_plain_state,
    "leaves_inputs_alone": leaves_inputs_alone,
    "resumes_bit_for_bit": resumes_bit_for_bit,
    "undoes_a_failing_step": undoes_a_failing_step,
    "draws_no_global_randomness": draws_no_global_randomness,
    "keeps_to_itself": keeps_to_itself,
    "stays_bounded": stays_bounded,
    "forgets_rows": forgets_rows,
    "refuses_other_states": refuses_other_states,
    "beats_naive": _beats_naive,
}
"""Every check by its name: a function of `make` that raises `CheckFailed`."""

__all__ = ["CHECKS", "CheckFailed", "OnNetwork", "check_strategy", "on_device"]


def check_strategy(
    make: Make,
    *,
    beats_naive: bool = True,
    network: Callable[[nn.Module], nn.Module] | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Run every check on a strategy, or on a list of strategies that act together.

    Args:
        make: makes a new strategy, or a new list of them, at every call: a class with defaults
            for all arguments, or a function. Memories of at most 2000 rows, please, so that they
            can be seen to be full.
        beats_naive: whether it must forget less than plain training; see `CHECKS["beats_naive"]`
            for the stream on which that is measured, and choose strengths that fit it.
        network: makes of a small model, of 8 inputs and 6 classes, the one that the strategy
            needs, if it cannot do with any.
        device: where to try it. On a GPU, some operations of torch add up in another order each
            time unless `torch.use_deterministic_algorithms(True)` is called before.

    Raises:
        ValueError: there is no such device here.
        CheckFailed: a promise is broken; it names the check, where, and what to do. Whatever else
            the strategy raises passes through, with a note that names the check.

    Example:
        >>> from lifelong.core.strategy import Strategy
        >>> class Counter(Strategy):
        ...     state = ("steps",)
        ...     def __init__(self):
        ...         self.steps = 0
        ...     def after_step(self, learner, batch, output):
        ...         self.steps += 1
        >>> check_strategy(Counter, beats_naive=False)
        >>> class Diary(Counter):
        ...     state = ("rows",)
        ...     def __init__(self):
        ...         self.rows = []
        ...     def after_step(self, learner, batch, output):
        ...         self.rows.append(batch.x)
        >>> CHECKS["forgets_rows"](Diary)
        Traceback (most recent call last):
        ...
        lifelong.checks.states.CheckFailed: forgets_rows (alone): after forget(keys) state/0 Diary\
/rows/0 holds the values of a row; drop the rows with these ids in forget(), and overwrite where \
they lay
    """
    if network is not None:
        make = OnNetwork(make, network)
    make = on_device(make, device)
    for name, check in CHECKS.items():
        if name == "beats_naive" and not beats_naive:
            continue
        try:
            check(make)
        except CheckFailed:
            raise
        except Exception as error:
            error.add_note(f"raised while checking {name!r}")
            raise
