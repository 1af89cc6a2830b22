"""Continual learning for PyTorch: models that go on learning and keep what they knew.

learner = Learner(net, SGD(net.parameters(), lr=0.03), [EWC(strength=100), Replay(capacity=500)])
for task in stream:
    learner.begin_task(task)
    for batch in task:
        learner.observe(batch)
    learner.end_task(task)
"""

from lifelong.core.batch import Batch
from lifelong.core.errors import LifelongError
from lifelong.core.learner import Learner
from lifelong.core.loss import cross_entropy
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec
from lifelong.memory import Memory
from lifelong.strategies import DER, EWC, L2, MAS, SI, DERpp, LwF, Replay

__version__ = "0.1.0"

__all__ = [
    "DER",
    "EWC",
    "L2",
    "MAS",
    "SI",
    "Batch",
    "DERpp",
    "Learner",
    "LifelongError",
    "LwF",
    "Memory",
    "Replay",
    "Strategy",
    "TaskSpec",
    "cross_entropy",
]
