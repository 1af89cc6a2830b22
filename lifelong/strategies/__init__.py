"""One file a method; each is a `Strategy`. None of them at all is plain fine-tuning."""

from lifelong.strategies.der import DER, DERpp
from lifelong.strategies.ewc import EWC
from lifelong.strategies.gem import AGEM, GEM
from lifelong.strategies.gpm import GPM
from lifelong.strategies.l2 import L2
from lifelong.strategies.lwf import LwF
from lifelong.strategies.mas import MAS
from lifelong.strategies.ogd import OGD
from lifelong.strategies.quadratic import Quadratic
from lifelong.strategies.replay import Replay
from lifelong.strategies.si import SI

__all__ = [
    "AGEM",
    "DER",
    "EWC",
    "GEM",
    "GPM",
    "L2",
    "MAS",
    "OGD",
    "SI",
    "DERpp",
    "LwF",
    "Quadratic",
    "Replay",
]
