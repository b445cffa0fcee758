# SPDX-License-Identifier: Apache-2.0
"""A policy in one of its phases. Everything that judges, compiles or explains takes that one."""

from __future__ import annotations

from dataclasses import replace

from agentwall.errors import AgentwallError
from agentwall.policy.model import Policy, Rule

_SHOWN = 64


class PhaseError(AgentwallError, LookupError):
    """A policy has no phase of that name."""


def in_phase(policy: Policy, name: str | None = None) -> Policy:
    """Return *policy* as it holds in one phase: its rules, then the phase's, and the phase's mode.

    Rules of other phases are left out; :attr:`~agentwall.policy.model.Policy.phases` stays.

    Args:
        policy: As it was loaded, or already in this phase.
        name: None: the first phase, or the one that *policy* is in already. A policy without
            phases takes only None, and is returned as it is.

    Raises:
        PhaseError: *policy* has no such phase. The message names those it has.
        ValueError: *policy* is in another phase already: that cannot be undone.
    """
    if policy.phase is not None and name in (None, policy.phase):
        return policy
    if name is None and not policy.phases:
        return policy
    wanted = policy.phases[0].name if name is None else name
    phase = next((each for each in policy.phases if each.name == wanted), None)
    if phase is None:
        names = ", ".join(each.name for each in policy.phases)
        expected = f"one of {names}" if names else "none: the policy has no phases"
        shown = ascii(wanted[:_SHOWN])
        raise PhaseError(f"phase of {policy.name}: expected {expected}, got {shown}")
    if policy.phase is not None:
        raise ValueError(f"{policy.name}: in phase {policy.phase} already")
    return replace(
        policy,
        mode=phase.mode or policy.mode,
        allow=policy.allow + phase.allow,
        deny=policy.deny + phase.deny,
        phase=phase.name,
    )


def in_each_phase(policy: Policy) -> tuple[Policy, ...]:
    """Return *policy* in each of its phases; itself alone without phases, or in one already."""
    if policy.phase is not None or not policy.phases:
        return (policy,)
    return tuple(in_phase(policy, phase.name) for phase in policy.phases)


def every_rule(policy: Policy) -> tuple[Rule, ...]:
    """Return the rules of all lists of *policy*, those of each phase too, each once."""
    rules = [*policy.allow, *policy.deny, *policy.inbound]
    for phase in policy.phases:
        rules += (rule for rule in phase.allow + phase.deny if phase.name != policy.phase)
    return tuple(rules)
