"""Preallocated rows, and the policies that choose which of them stay."""

from lifelong.memory.balanced import Balanced
from lifelong.memory.cleaning import REASONS, Cleaning
from lifelong.memory.codecs import Auto, Bytes, Codec, Half, Int8
from lifelong.memory.herding import SELECTIONS, herding, k_center
from lifelong.memory.jpeg import Jpeg
from lifelong.memory.loss_aware import LossAware
from lifelong.memory.memory import Memory
from lifelong.memory.policies import POLICIES, policy_of
from lifelong.memory.policy import Policy
from lifelong.memory.reservoir import Reservoir
from lifelong.memory.ring import Ring
from lifelong.memory.rows import Rows
from lifelong.memory.store import CODECS

__all__ = [
    "CODECS",
    "POLICIES",
    "REASONS",
    "SELECTIONS",
    "Auto",
    "Balanced",
    "Bytes",
    "Cleaning",
    "Codec",
    "Half",
    "Int8",
    "Jpeg",
    "LossAware",
    "Memory",
    "Policy",
    "Reservoir",
    "Ring",
    "Rows",
    "herding",
    "k_center",
    "policy_of",
]
