"""Checks of strategies that act on summed LoRA alone, with a memory beside them."""

from dataclasses import replace

from lifelong import Replay
from lifelong.checks import CHECKS, forgetting, keeping, learning
from lifelong.checks.settings import Setting, lora_model

NAMES = [check for check in CHECKS if check != "beats_naive"]
GROWING = Setting("growing head", lora_model, adam=True)
SETTINGS = (GROWING, replace(GROWING, precision="bf16"), replace(GROWING, accumulate=2))


def check_with_replay(monkeypatch, check, make):
    for module in (keeping, learning, forgetting):
        for name, setting in (("ALONE", GROWING), ("GROWING", GROWING), ("SETTINGS", SETTINGS)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, setting)
    CHECKS[check](lambda: [make(), Replay(100)])
