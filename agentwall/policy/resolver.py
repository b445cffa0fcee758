# SPDX-License-Identifier: Apache-2.0
"""The rule that a policy's declared DNS servers stand for."""

from __future__ import annotations

from agentwall.net.endpoint import L4Protocol
from agentwall.net.ports import PortRange, selector
from agentwall.policy.model import Policy, Rule, Section

DNS_PORT = 53

_PORTS = tuple(
    PortRange(selector(protocol, DNS_PORT), selector(protocol, DNS_PORT))
    for protocol in (L4Protocol.UDP, L4Protocol.TCP)
)


def resolver_rule(policy: Policy) -> Rule | None:
    """Return the rule of ``dns.servers``: UDP and TCP 53 there, outward; None without ``dns``.

    Single addresses: it opens them in reserved blocks too, as an allow on exactly them would.
    """
    if policy.dns is None:
        return None
    return Rule(
        policy=policy.name,
        section=Section.RESOLVER,
        index=0,
        prefixes=policy.dns.servers,
        ports=_PORTS,
        where=policy.dns.where,
    )
