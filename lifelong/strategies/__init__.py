"""One file a method; each is a `Strategy`. None of them at all is plain fine-tuning."""

from lifelong.strategies.adaptive import Adaptive
from lifelong.strategies.analytic import Analytic
from lifelong.strategies.bic import BiC
from lifelong.strategies.class_balanced import ClassBalanced
from lifelong.strategies.clean import CleanReplay
from lifelong.strategies.der import DER, DERpp
from lifelong.strategies.dgr import DGR
from lifelong.strategies.eeil import EEIL
from lifelong.strategies.er_ace import ERACE
from lifelong.strategies.ewc import EWC
from lifelong.strategies.exemplars import Exemplars
from lifelong.strategies.expert_gate import ExpertGate
from lifelong.strategies.feature_replay import FeatureReplay
from lifelong.strategies.features import FeatureDistillation
from lifelong.strategies.feedback import Feedback
from lifelong.strategies.gdumb import GDumb
from lifelong.strategies.gem import AGEM, GEM
from lifelong.strategies.gpm import GPM
from lifelong.strategies.hat import HAT
from lifelong.strategies.icarl import ICaRL
from lifelong.strategies.inflora import InfLoRA
from lifelong.strategies.l2 import L2
from lifelong.strategies.latents import Latents
from lifelong.strategies.lwf import LwF
from lifelong.strategies.mas import MAS
from lifelong.strategies.mean_teacher import MeanTeacher
from lifelong.strategies.mergan import MeRGAN
from lifelong.strategies.mir import MIR
from lifelong.strategies.ogd import OGD
from lifelong.strategies.orthogonal import Orthogonal
from lifelong.strategies.packnet import PackNet
from lifelong.strategies.pooled import PooledDistillation
from lifelong.strategies.prioritized import Prioritized
from lifelong.strategies.quadratic import Quadratic
from lifelong.strategies.replay import Replay
from lifelong.strategies.schedules import ClassRatio, PerTask, Rising
from lifelong.strategies.si import SI
from lifelong.strategies.sleep import Sleep
from lifelong.strategies.steady import Steady
from lifelong.strategies.wa import WA
from lifelong.strategies.xder import XDER

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
    "LwF",
    "MeRGAN",
    "MeanTeacher",
    "Orthogonal",
    "PackNet",
    "PerTask",
    "PooledDistillation",
    "Prioritized",
    "Quadratic",
    "Replay",
    "Rising",
    "Sleep",
    "Steady",
]
