# SPDX-License-Identifier: Apache-2.0
"""Random policies, and flows that come close to their edges."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from agentwall.errors import SourceLocation
from agentwall.flow.verdict import Mode
from agentwall.net.endpoint import NAT64_WELL_KNOWN, SIX_TO_FOUR, V4_MAPPED, Endpoint
from agentwall.net.ports import ANY, EVERYTHING, ICMP, parse_ports
from agentwall.policy.model import Loopback, OnError, Policy, Rule, RulePrefix, Section

EXAMPLES = 20 if "VMTEST_KERNEL" in os.environ else 120
"""An emulated kernel takes fifteen times as long for each."""
MANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""With :data:`FLOWS` flows each: 2 400 cases, the same ones in every run."""
FLOWS = 20
CASES = EXAMPLES * FLOWS
ENOUGH = max(EXAMPLES // 4, 20)
"""Examples of which one at least has to be told from what is right: of five, chance had none."""

HERE = SourceLocation("random.yaml", 1, 1)

V4_POOL = (
    "0.0.0.0",
    "8.8.8.8",
    "10.0.0.0",
    "10.1.2.3",
    "93.184.216.34",
    "100.100.100.200",
    "127.0.0.1",
    "127.9.9.9",
    "168.63.129.16",
    "169.254.169.254",
    "192.168.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.251",
    "255.255.255.255",
)
V6_POOL = (
    "::",
    "::1",
    "2001:db8::7",
    "2001:db8:0:1::1",
    "2600:1f18::99",
    "64:ff9b:1::808:808",
    "fd00:ec2::254",
    "fd12:3456::1",
    "fe80::1",
    "ff02::fb",
)
EMBEDDED = (
    "::ffff:10.1.2.3",
    "::ffff:8.8.8.8",
    "64:ff9b::a01:203",
    "64:ff9b::7f00:1",
    "2002:a01:203::1",
    "2002:808:808::",
    "2002:7f00:1::1",
    "2002::1",
)
"""Only as destinations: rules name the IPv4 address inside."""

V4_LENGTHS = (0, 4, 5, 7, 8, 9, 10, 12, 16, 17, 24, 28, 31, 32)
V6_LENGTHS = (0, 3, 7, 10, 16, 32, 47, 48, 64, 96, 120, 127, 128)
PORTS = tuple(
    [
        "53",
        "443",
        "80-443",
        "400-8000",
        "8000-8010",
        "tcp/*",
        "udp/53",
        "udp/*",
        "udp/50-60",
        "ip/132",
    ]
)
PROTOCOLS = (6, 6, 6, 17, 17, 1, 132, 47)


@st.composite
def networks(draw):
    """Return a rule's network: a pool address cut to a length, never inside an embedding block."""
    if draw(st.booleans()):
        return ip_network(
            (draw(st.sampled_from(V4_POOL)), draw(st.sampled_from(V4_LENGTHS))), strict=False
        )
    length = draw(st.sampled_from(V6_LENGTHS))
    network = ip_network((draw(st.sampled_from(V6_POOL)), length), strict=False)
    if any(network.subnet_of(block) for block in (V4_MAPPED, NAT64_WELL_KNOWN, SIX_TO_FOUR)):
        return ip_network("2001:db8::/32")
    return network


def port_lists(*, deny: bool):
    """Return the ports of a rule as ranges."""
    lists = st.lists(st.sampled_from(PORTS), min_size=1, max_size=4).map(
        lambda texts: tuple(r for text in texts for r in parse_ports(text))
    )
    return st.one_of(lists, lists, st.sampled_from((EVERYTHING, ICMP) if deny else (ANY, ICMP)))


@st.composite
def rules(draw, section: Section, least: int, most: int):
    """Return *least* to *most* rules of *section*."""
    found = []
    for index in range(draw(st.integers(least, most))):
        prefixes = draw(st.lists(networks(), min_size=1, max_size=3))
        found.append(
            Rule(
                policy="random",
                section=section,
                index=index,
                prefixes=tuple(RulePrefix(network, HERE) for network in prefixes),
                ports=draw(port_lists(deny=section is Section.DENY)),
                where=HERE,
            )
        )
    return tuple(found)


@st.composite
def policies(draw):
    """Return a random policy with more allow than deny rules: both verdicts are to be common."""
    return Policy(
        name="random",
        mode=Mode.ENFORCE,
        on_error=OnError.FAIL_CLOSED,
        refuse_with="EPERM",
        loopback=Loopback.AUTO,
        allow=draw(rules(Section.ALLOW, 2, 8)),
        deny=draw(rules(Section.DENY, 0, 2)),
        inbound=draw(rules(Section.INBOUND, 0, 3)),
        tests=(),
        files=(),
        digest="",
    )


@st.composite
def remotes(draw, policy: Policy):
    """Return an endpoint in or next to a rule of *policy*, or one from the pools."""
    rule = draw(st.sampled_from((*policy.allow * 6, *policy.deny, *policy.inbound, None)))
    if rule is None:
        text = draw(st.sampled_from((*V4_POOL, *V6_POOL, *EMBEDDED)))
        return endpoint(ip_address(text), draw(st.sampled_from(PROTOCOLS)), draw(_any_port()))
    network = draw(st.sampled_from(rule.prefixes)).network
    first, last = int(network[0]), int(network[-1])
    middle = (first + last) // 2
    number = draw(st.sampled_from((first, last, middle, middle, first - 1, last + 1)))
    width = 32 if network.version == 4 else 128
    address = type(network[0])(max(0, min(number, (1 << width) - 1)))
    around = draw(st.sampled_from(rule.ports))
    edges = (around.first, around.last)
    selector = draw(st.sampled_from((*edges * 3, around.first - 1, around.last + 1)))
    if draw(st.integers(0, 3)) and 0 <= selector >> 16 < 255:
        return endpoint(address, selector >> 16, selector & 0xFFFF)
    return endpoint(address, draw(st.sampled_from(PROTOCOLS)), draw(_any_port()))


def _any_port():
    return st.sampled_from((53, 80, 443, 8000, 8010, 9999, 1, 65535))


def endpoint(address, protocol: int, port: int) -> Endpoint:
    """Make what a packet can really carry: ICMP of the family, no extension header, no ports."""
    v4 = isinstance(address, IPv4Address)
    if protocol in (1, 58):
        protocol = 1 if v4 else 58
    elif protocol in (0, 43, 44, 60):
        protocol = 47
    return Endpoint(address, port if protocol in (6, 17) else 0, protocol)


def inbound_ports(policy: Policy):
    """Return a local port at or next to an edge of an inbound rule."""
    edges = {r.first & 0xFFFF for rule in policy.inbound for r in rule.ports} | {
        r.last & 0xFFFF for rule in policy.inbound for r in rule.ports
    }
    return st.sampled_from(sorted({max(1, edge) for edge in edges} | {53, 443, 8000}))
