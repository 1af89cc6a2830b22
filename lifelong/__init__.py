"""Continual learning for PyTorch: models that go on learning and keep what they knew.

learner = Learner(net, SGD(net.parameters(), lr=0.03), [EWC(strength=100), Replay(capacity=500)])
for task in stream:
    learner.begin_task(task)
    for batch in task:
        learner.observe(batch)
    learner.end_task(task)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifelong.core.batch import Batch
    from lifelong.core.errors import LifelongError
    from lifelong.core.learner import Learner
    from lifelong.core.loss import cross_entropy
    from lifelong.core.strategy import Strategy
    from lifelong.core.task import TaskSpec
    from lifelong.memory import Memory
    from lifelong.preset import default_learner
    from lifelong.strategies import (
        AGEM,
        DER,
        DGR,
        EEIL,
        ERACE,
        EWC,
        GEM,
        GPM,
        HAT,
        L2,
        MAS,
        MIR,
        OGD,
        SI,
        WA,
        XDER,
        Adaptive,
        Analytic,
        BiC,
        ClassBalanced,
        ClassRatio,
        DERpp,
        Exemplars,
        ExpertGate,
        FeatureDistillation,
        FeatureReplay,
        Feedback,
        GDumb,
        ICaRL,
        InfLoRA,
        LwF,
        MeanTeacher,
        MeRGAN,
        Orthogonal,
        PackNet,
        PerTask,
        PooledDistillation,
        Prioritized,
        Replay,
        Rising,
        Sleep,
        Steady,
    )

__version__ = "0.1.0"

__all__ = [
    "AGEM",
    "DER",
    "DGR",
    "EEIL",
    "ERACE",
    "EWC",
    "GEM",
    "GPM",
    "HAT",
    "L2",
    "MAS",
    "MIR",
    "OGD",
    "SI",
    "WA",
    "XDER",
    "Adaptive",
    "Analytic",
    "Batch",
    "BiC",
    "ClassBalanced",
    "ClassRatio",
    "CleanReplay",
    "DERpp",
    "Exemplars",
    "ExpertGate",
    "FeatureDistillation",
    "FeatureReplay",
    "Feedback",
    "GDumb",
    "ICaRL",
    "InfLoRA",
    "Latents",
    "Learner",
    "LifelongError",
    "LwF",
    "MeRGAN",
    "MeanTeacher",
    "Memory",
    "Orthogonal",
    "PackNet",
    "PerTask",
    "PooledDistillation",
    "Prioritized",
    "Replay",
    "Rising",
    "Sleep",
    "Steady",
    "Strategy",
    "TaskSpec",
    "cross_entropy",
    "default_learner",
]

_HOMES = {
    "Batch": "core.batch",
    "Learner": "core.learner",
    "LifelongError": "core.errors",
    "Memory": "memory",
    "Strategy": "core.strategy",
    "TaskSpec": "core.task",
    "cross_entropy": "core.loss",
    "default_learner": "preset",
}


_PARTS = ("core", "memory", "nets", "strategies")


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import: a command line must be able to start, and to stop, before.
    if name in _PARTS:
        return import_module(f"lifelong.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'lifelong' has no attribute {name!r}")
    value = getattr(import_module(f"lifelong.{_HOMES.get(name, 'strategies')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
