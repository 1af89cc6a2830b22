"""Methods that bring a network of their own keep every promise that strategies make."""

import pytest
from own_networks import checked_on

from lifelong import HAT, ExpertGate, PackNet, Strategy
from lifelong.bench.networks import experts, gated, packed, progressive, supermasked
from lifelong.checks import CHECKS, on_device

METHODS = {
    "progressive": (progressive, Strategy),
    "packnet": (packed, lambda: PackNet(prune=0.6, lr=0.05)),
    "hat": (gated, lambda: HAT(0.1, steps=8)),
    "supermasks": (supermasked, Strategy),
    "experts": (experts, lambda: ExpertGate(full="reuse")),
}
OF_NETWORKS = {
    "resumes_bit_for_bit",
    "leaves_inputs_alone",
    "undoes_a_failing_step",
    "refuses_other_states",
    "beats_naive",
}
"""The checks that say something of a network without a strategy."""


@pytest.mark.parametrize(
    ("name", "check"),
    [
        (name, check)
        for name, (_, make) in METHODS.items()
        for check in CHECKS
        if make is not Strategy or check in OF_NETWORKS
    ],
)
def test_a_method_keeps_every_promise_on_its_network(name, check, monkeypatch, device):
    network, make = METHODS[name]
    checked_on(monkeypatch, network)
    CHECKS[check](on_device(make, device))
