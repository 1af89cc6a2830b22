"""The table of policies, and a policy by its name."""

from __future__ import annotations

from lifelong.core.errors import UnknownName
from lifelong.memory.balanced import Balanced
from lifelong.memory.loss_aware import LossAware
from lifelong.memory.policy import Policy
from lifelong.memory.reservoir import Reservoir
from lifelong.memory.ring import Ring

POLICIES: dict[str, type[Policy]] = {
    "reservoir": Reservoir,
    "ring": Ring,
    "balanced": Balanced,
    "loss-aware": LossAware,
}


def policy_of(policy: str | Policy, capacity: int) -> Policy:
    """Make the policy of a name, or make sure that one is new and of the capacity.

    Raises:
        UnknownName: there is no policy of that name.
        ValueError: the policy was made for another capacity, or serves another memory already.

    Example:
        >>> policy_of("ring", 10).capacity
        10
    """
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise UnknownName("memory policy", policy, POLICIES)
        return POLICIES[policy](capacity)
    if policy.capacity != capacity:
        raise ValueError(
            f"a policy for {policy.capacity} rows in a memory for {capacity}; give both the same"
        )
    if policy.held:
        raise ValueError(
            f"a policy that holds {policy.held} rows already; give each memory its own"
        )
    return policy
