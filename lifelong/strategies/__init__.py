"""One file a method; each is a `Strategy`. None of them at all is plain fine-tuning."""

from lifelong.strategies.der import DER, DERpp
from lifelong.strategies.dgr import DGR
from lifelong.strategies.ewc import EWC
from lifelong.strategies.feature_replay import FeatureReplay
from lifelong.strategies.l2 import L2
from lifelong.strategies.lwf import LwF
from lifelong.strategies.mas import MAS
from lifelong.strategies.mergan import MeRGAN
from lifelong.strategies.quadratic import Quadratic
from lifelong.strategies.replay import Replay
from lifelong.strategies.si import SI

__all__ = [
    "DER",
    "DGR",
    "EWC",
    "L2",
    "MAS",
    "SI",
    "DERpp",
    "FeatureReplay",
    "LwF",
    "MeRGAN",
    "Quadratic",
    "Replay",
]
