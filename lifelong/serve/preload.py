"""What the processes of a service need, imported once by the one that they are forked from."""

from __future__ import annotations

import gc


def load() -> None:
    """Import all of it, without the garbage collections that take a quarter of the time."""
    gc.disable()
    import torch

    from lifelong.serve import api, learning, runs

    del api, learning
    runs.load()
    # The first optimizer of a process imports almost as much again as torch does.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    gc.freeze()  # a collection in a process that was forked does not touch, and so copy, all that
    gc.enable()


load()
