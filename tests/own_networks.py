"""The settings of the checks, with what a method makes of each setting's model."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from lifelong.checks import forgetting, keeping, learning
from lifelong.checks.settings import ALONE, GROWING, SETTINGS, Setting

PLAIN = tuple(setting for setting in SETTINGS if setting.name != "with LoRA")
"""A network that freezes or masks weights itself is not made of one with frozen weights."""


def checked_on(monkeypatch, network: Callable[[nn.Module], nn.Module]) -> None:
    """Let the checks try strategies on other networks."""

    def changed(setting: Setting) -> Setting:
        return replace(setting, model=lambda: network(setting.model()))

    plain = {seed: forgetting._naive(ALONE, seed) for seed in forgetting.SEEDS}
    # Plain training of the plain model is what to be better than.
    monkeypatch.setattr(forgetting, "_naive", lambda setting, seed: plain[seed])
    for module in (keeping, learning, forgetting):
        for name, setting in (("ALONE", changed(ALONE)), ("GROWING", changed(GROWING))):
            monkeypatch.setattr(module, name, setting, raising=False)
        monkeypatch.setattr(module, "SETTINGS", tuple(map(changed, PLAIN)), raising=False)
