"""The learner that compose.yaml starts with; make your own of it."""

import torch
from torch.optim import SGD

from lifelong import DERpp, Learner
from lifelong.nets import MLP


def learner() -> Learner:
    """Make the learner, the same one each time."""
    torch.manual_seed(0)
    net = MLP(4, hidden=(32,), outputs=3)
    return Learner(net, SGD(net.parameters(), lr=0.05), [DERpp(capacity=1000)])
