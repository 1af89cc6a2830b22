"""Methods that bring a network of their own keep every promise that strategies make."""

import pytest
from own_networks import checked_on

from lifelong import HAT, ExpertGate, PackNet, Strategy
from lifelong.bench.networks import experts, gated, packed, progressive, supermasked
from lifelong.checks import CHECKS

METHODS = {
    "progressive": (progressive, Strategy),
    "packnet": (packed, lambda: PackNet(prune=0.6, lr=0.05)),
    "supermasks": (supermasked, Strategy),
    "experts": (experts, lambda: ExpertGate(full="reuse")),
    "hat": (gated, lambda: HAT(0.1, steps=8)),
}


@pytest.mark.parametrize(("network", "make"), METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_a_method_keeps_every_promise_on_its_network(check, network, make, monkeypatch):
    checked_on(monkeypatch, network)
    check(make)
