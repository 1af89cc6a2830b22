"""One file a method; each is a `Strategy`. None of them at all is plain fine-tuning."""

from lifelong.strategies.clean import CleanReplay
from lifelong.strategies.der import DER, DERpp
from lifelong.strategies.ewc import EWC
from lifelong.strategies.exemplars import Exemplars
from lifelong.strategies.l2 import L2
from lifelong.strategies.latents import Latents
from lifelong.strategies.lwf import LwF
from lifelong.strategies.mas import MAS
from lifelong.strategies.prioritized import Prioritized
from lifelong.strategies.quadratic import Quadratic
from lifelong.strategies.replay import Replay
from lifelong.strategies.si import SI

__all__ = [
    "DER",
    "EWC",
    "L2",
    "MAS",
    "SI",
    "CleanReplay",
    "DERpp",
    "Exemplars",
    "Latents",
    "LwF",
    "Prioritized",
    "Quadratic",
    "Replay",
]
