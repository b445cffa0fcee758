# SPDX-License-Identifier: Apache-2.0
"""What a policy says about one flow: the reference that the kernel must agree with.

Deliberately plain, rule by rule, and independent of :mod:`agentwall.policy.compile`: a property
test holds the two equal, another one this and the loaded BPF programs.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace

from agentwall.errors import SourceLocation
from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.domain import NameDepth
from agentwall.net.endpoint import Endpoint, IPAddress, IPNetwork, canonical, destination
from agentwall.net.prefix import EVERYWHERE
from agentwall.net.reserved import innermost_block
from agentwall.policy.lookup import PatternIndex, PrefixIndex
from agentwall.policy.model import (
    Loopback,
    LoopbackScope,
    NameTerms,
    Policy,
    Rule,
    RulePattern,
    RulePrefix,
    Section,
)
from agentwall.policy.resolver import resolver_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict and where it comes from."""

    verdict: Verdict
    """ALLOW or DENY, whatever the mode."""
    code: ReasonCode
    """RULE, NO_RULE, LOOPBACK or RESOLVER."""
    rule: Rule | None = None
    prefix: RulePrefix | None = None
    """The rule's most specific prefix that holds the address."""
    pattern: RulePattern | None = None
    """The rule's most specific pattern that holds *name*, where a rule on names decided."""
    name: str | None = None

    @property
    def where(self) -> SourceLocation | None:
        """The line of the prefix or pattern that decided."""
        found = self.prefix or self.pattern
        return found.where if found else None

    @property
    def terms(self) -> NameTerms | None:
        """On which terms it is allowed: of rules on names and of proxies only."""
        if self.rule is None or self.verdict is Verdict.DENY:
            return None
        return self.rule.terms if self.pattern or self.rule.is_proxy else None

    @property
    def is_proxy(self) -> bool:
        """Whether what the remote is asked for is judged by the other rules."""
        return self.rule is not None and self.rule.is_proxy


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
    names: Collection[str] = (),
) -> Decision:
    """Judge one flow.

    Args:
        policy: Judged by its rules alone; the mode does not matter.
        direction: Who opens the flow: OUT is the sandbox.
        remote: The other end, as connect() was asked for it or as packets name it.
        local_port: The sandbox's own port; counts for IN only.
        loopback: See :func:`loopback_scope`.
        own_listener: Whether the listener at *remote* belongs to the sandbox (OUT to loopback).
        names: Those under which the sandbox learned the address of *remote* (OUT). Where one rule
            matches several, the first of them is named.
    """
    protocol, port = remote.protocol, remote.port
    if direction is Direction.IN:
        return _judge_inbound(policy, canonical(remote.address), protocol, local_port)
    address = destination(remote.address)
    for rule in policy.deny:
        decision = _by_address(rule, address, protocol, port) or _by_name(
            rule, names, protocol, port
        )
        if decision:
            return decision
    resolver = resolver_rule(policy)
    if resolver and (decision := _by_address(resolver, address, protocol, port)):
        return replace(decision, code=ReasonCode.RESOLVER)
    block = innermost_block(address)
    for rule in policy.allow:
        if decision := _by_address(rule, address, protocol, port, block):
            return decision
    if block is None or _is_opened(policy, address, block):
        for rule in policy.allow:
            if decision := _by_name(rule, names, protocol, port):
                return decision
    if address.is_loopback and (
        loopback is LoopbackScope.FREE or (loopback is LoopbackScope.OWN_LISTENERS and own_listener)
    ):
        return Decision(verdict=Verdict.ALLOW, code=ReasonCode.LOOPBACK)
    return Decision(verdict=Verdict.DENY, code=ReasonCode.NO_RULE)


def evaluate_name(policy: Policy, name: str, protocol: int, port: int) -> Decision:
    """Judge a flow to *name*, as if it had resolved to an ordinary IPv4 address outside.

    Ordinary is what no narrower prefix holds than ``any``. Whether *name* may be asked for is
    another matter: :func:`~agentwall.policy.question.judge_question`.
    """
    for rule in policy.deny:
        if decision := _everywhere(rule, protocol, port) or _by_name(rule, (name,), protocol, port):
            return decision
    for rule in policy.allow:
        if decision := _everywhere(rule, protocol, port):
            return decision
    for rule in policy.allow:
        if decision := _by_name(rule, (name,), protocol, port):
            return decision
    return Decision(verdict=Verdict.DENY, code=ReasonCode.NO_RULE)


def _judge_inbound(policy: Policy, address: IPAddress, protocol: int, port: int) -> Decision:
    if address.is_loopback:
        return Decision(verdict=Verdict.ALLOW, code=ReasonCode.LOOPBACK)
    for rule in policy.inbound:
        if decision := _by_address(rule, address, protocol, port):
            return decision
    return Decision(verdict=Verdict.DENY, code=ReasonCode.NO_RULE)


def _by_address(
    rule: Rule, address: IPAddress, protocol: int, port: int, block: IPNetwork | None = None
) -> Decision | None:
    """Return what *rule* says of an address; its prefix has to lie in *block*, if one is given."""
    if not any(r.holds(protocol, port) for r in rule.ports):
        return None
    holding = [
        prefix
        for prefix in rule.prefixes
        if address in prefix.network and (block is None or _lies_in(prefix.network, block))
    ]
    if not holding:
        return None
    prefix = max(holding, key=lambda found: found.network.prefixlen)
    return Decision(verdict=_verdict(rule), code=ReasonCode.RULE, rule=rule, prefix=prefix)


def _everywhere(rule: Rule, protocol: int, port: int) -> Decision | None:
    """Return what *rule* says of every IPv4 address."""
    if not any(r.holds(protocol, port) for r in rule.ports):
        return None
    prefix = next((p for p in rule.prefixes if p.network == EVERYWHERE[0]), None)
    if prefix is None:
        return None
    return Decision(verdict=_verdict(rule), code=ReasonCode.RULE, rule=rule, prefix=prefix)


def _by_name(rule: Rule, names: Collection[str], protocol: int, port: int) -> Decision | None:
    if not any(r.holds(protocol, port) for r in rule.ports):
        return None
    for name in names:
        if pattern := match_name(rule, name):
            return Decision(
                verdict=_verdict(rule),
                code=ReasonCode.RULE,
                rule=rule,
                pattern=pattern,
                name=name,
            )
    return None


def match_name(rule: Rule, name: str) -> RulePattern | None:
    """Return the most specific pattern of *rule* that holds *name*, or None."""
    holding = [found for found in rule.patterns if found.pattern.matches(name)]
    return max(
        holding,
        key=lambda found: (len(found.pattern.name), found.pattern.depth is NameDepth.LABEL),
        default=None,
    )


def _verdict(rule: Rule) -> Verdict:
    return Verdict.DENY if rule.section is Section.DENY else Verdict.ALLOW


def _is_opened(policy: Policy, address: IPAddress, block: IPNetwork) -> bool:
    """Say whether an allow rule on addresses opens *address* in its reserved block, for any port.

    A proxy does not, nor does a declared DNS server: they are there to be asked.
    """
    return any(
        address in prefix.network and _lies_in(prefix.network, block)
        for rule in policy.allow
        if not rule.is_proxy
        for prefix in rule.prefixes
    )


def _lies_in(network: IPNetwork, block: IPNetwork) -> bool:
    return network.prefixlen >= block.prefixlen and network.network_address in block


def resolve_line(
    rule: Rule, address: IPAddress | None = None, name: str | None = None
) -> SourceLocation:
    """Return the line of *rule*'s most specific prefix or pattern that decided.

    In a ``cidr_file`` or ``host_file`` that is the list's line. Falls back to the rule itself.

    Args:
        rule: On addresses or on names.
        address: The remote's, canonical; counts for a rule on addresses.
        name: Under which the remote was learned; counts for a rule on names.
    """
    found: RulePrefix | RulePattern | None = None
    if rule.patterns and name is not None:
        found = _patterns(_SameRule(rule)).find(name)
    elif rule.prefixes and address is not None:
        found = _prefixes(_SameRule(rule)).find(address)
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
def _prefixes(same: _SameRule) -> PrefixIndex:
    return PrefixIndex(same.rule.prefixes)


@functools.lru_cache(maxsize=128)
def _patterns(same: _SameRule) -> PatternIndex:
    return PatternIndex(same.rule.patterns)
