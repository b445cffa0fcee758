# SPDX-License-Identifier: Apache-2.0
"""What a policy says about one flow: the reference that the kernel must agree with.

Deliberately plain, rule by rule, and independent of :mod:`agentwall.policy.compile`: a property
test holds the two equal, another one this and the loaded BPF programs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from agentwall.errors import SourceLocation
from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress, IPNetwork, canonical, destination
from agentwall.net.reserved import innermost_block
from agentwall.policy.lookup import PrefixIndex
from agentwall.policy.model import Loopback, LoopbackScope, Policy, Rule, RulePrefix, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict and where it comes from."""

    verdict: Verdict
    """ALLOW or DENY, whatever the mode."""
    code: ReasonCode
    """RULE, NO_RULE or LOOPBACK."""
    rule: Rule | None = None
    prefix: RulePrefix | None = None
    """The rule's most specific prefix that holds the address."""


def loopback_scope(policy: Policy, own_netns: bool) -> LoopbackScope:
    """Return what the policy's ``loopback`` comes to, by whose network namespace it is."""
    match policy.loopback:
        case Loopback.ALLOW:
            return LoopbackScope.FREE
        case Loopback.DENY:
            return LoopbackScope.CLOSED
        case Loopback.AUTO:
            return LoopbackScope.FREE if own_netns else LoopbackScope.OWN_LISTENERS


def evaluate(
    policy: Policy,
    *,
    direction: Direction,
    remote: Endpoint,
    local_port: int = 0,
    loopback: LoopbackScope,
    own_listener: bool = False,
) -> Decision:
    """Judge one flow.

    Args:
        policy: Judged by its rules alone; the mode does not matter.
        direction: Who opens the flow: OUT is the sandbox.
        remote: The other end, as connect() was asked for it or as packets name it.
        local_port: The sandbox's own port; counts for IN only.
        loopback: See :func:`loopback_scope`.
        own_listener: Whether the listener at *remote* belongs to the sandbox (OUT to loopback).
    """
    if direction is Direction.IN:
        return _judge_inbound(policy, canonical(remote.address), remote.protocol, local_port)
    address = destination(remote.address)
    for rule in policy.deny:
        if decision := _decide(rule, address, remote.protocol, remote.port, None):
            return decision
    block = innermost_block(address)
    for rule in policy.allow:
        if decision := _decide(rule, address, remote.protocol, remote.port, block):
            return decision
    if address.is_loopback and (
        loopback is LoopbackScope.FREE or (loopback is LoopbackScope.OWN_LISTENERS and own_listener)
    ):
        return Decision(verdict=Verdict.ALLOW, code=ReasonCode.LOOPBACK)
    return Decision(verdict=Verdict.DENY, code=ReasonCode.NO_RULE)


def _judge_inbound(policy: Policy, address: IPAddress, protocol: int, port: int) -> Decision:
    if address.is_loopback:
        return Decision(verdict=Verdict.ALLOW, code=ReasonCode.LOOPBACK)
    for rule in policy.inbound:
        if decision := _decide(rule, address, protocol, port, None):
            return decision
    return Decision(verdict=Verdict.DENY, code=ReasonCode.NO_RULE)


def _decide(
    rule: Rule, address: IPAddress, protocol: int, port: int, block: IPNetwork | None
) -> Decision | None:
    if not any(r.holds(protocol, port) for r in rule.ports):
        return None
    holding = [
        prefix
        for prefix in rule.prefixes
        if address in prefix.network and (block is None or _lies_in(prefix.network, block))
    ]
    if not holding:
        return None
    verdict = Verdict.DENY if rule.section is Section.DENY else Verdict.ALLOW
    prefix = max(holding, key=lambda found: found.network.prefixlen)
    return Decision(verdict=verdict, code=ReasonCode.RULE, rule=rule, prefix=prefix)


def _lies_in(network: IPNetwork, block: IPNetwork) -> bool:
    return network.prefixlen >= block.prefixlen and network.network_address in block


def resolve_line(rule: Rule, address: IPAddress) -> SourceLocation:
    """Return the line of *rule*'s most specific prefix that holds the canonical *address*.

    In a ``cidr_file`` that is the list's line. Falls back to the rule itself.
    """
    found = _index(_SameRule(rule)).find(address)
    return found.where if found else rule.where


class _SameRule:
    """A rule compared by identity: hashing the prefixes of a long list would take longer."""

    __slots__ = ("rule",)

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameRule) and other.rule is self.rule

    def __hash__(self) -> int:
        return id(self.rule)


@functools.lru_cache(maxsize=128)
def _index(same: _SameRule) -> PrefixIndex:
    return PrefixIndex(same.rule.prefixes)
