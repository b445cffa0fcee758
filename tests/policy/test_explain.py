# SPDX-License-Identifier: Apache-2.0
"""The line that would permit a denied flow does permit it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import parse_destination, parse_target
from agentwall.net.domain import parse_pattern
from agentwall.net.endpoint import Endpoint, NamedEndpoint
from agentwall.net.reserved import ALL_BLOCKS
from agentwall.policy.evaluate import evaluate, evaluate_name
from agentwall.policy.explain import (
    describe_inspect,
    describe_terms,
    labels_below,
    permit_line,
    suggest,
)
from agentwall.policy.load import load_policy
from agentwall.policy.model import Inspect, LoopbackScope, NameTerms


@pytest.mark.parametrize(
    ("to", "line"),
    [
        ("203.0.113.7:443", "under allow: - {cidr: 203.0.113.7, ports: [443]}"),
        ("udp/8.8.8.8:53", "under allow: - {cidr: 8.8.8.8, ports: [udp/53]}"),
        ("[2001:db8::1]:443", 'under allow: - {cidr: "2001:db8::1", ports: [443]}'),
        ("[::ffff:10.0.0.1]:443", "under allow: - {cidr: 10.0.0.1, ports: [443]}"),
        ("[::]:443", 'under allow: - {cidr: "::1", ports: [443]}'),
        ("icmp/203.0.113.7", "under allow: - {cidr: 203.0.113.7, ports: [icmp]}"),
        ("icmp/2001:db8::1", 'under allow: - {cidr: "2001:db8::1", ports: [icmp]}'),
        ("ip/132/203.0.113.7", "under allow: - {cidr: 203.0.113.7, ports: [ip/132]}"),
        ("ip/255/203.0.113.7", "no rule permits IP protocol 255"),
        ("ip/0/203.0.113.7", "no rule permits IP protocol 0"),
    ],
)
def test_outbound(to, line):
    """A denied destination comes with the narrowest rule that permits it."""
    remote = parse_destination(to)

    assert suggest(protocol=remote.protocol, remote=remote, direction=Direction.OUT) == line


def test_port_zero():
    """There is no entry for port 0, only for all ports."""
    remote = Endpoint(ip_address("203.0.113.7"), 0, 17)

    assert permit_line(protocol=17, remote=remote) == "- {cidr: 203.0.113.7, ports: [udp/*]}"


def test_inbound():
    """A denied peer comes with the sandbox's own port."""
    remote = Endpoint(ip_address("10.20.0.1"), 40000, 6)
    text = suggest(protocol=6, remote=remote, direction=Direction.IN, local_port=8000)

    assert text == "under inbound: - {cidr: 10.20.0.1, ports: [8000]}"


def test_denied_by_rule():
    """Where a deny rule decides, no line can help, and the rule is named."""
    remote = Endpoint(ip_address("10.20.0.9"), 443, 6)
    text = suggest(
        protocol=6,
        remote=remote,
        direction=Direction.OUT,
        code=ReasonCode.RULE,
        rule="base:deny[3]",
    )

    assert text == "no allow can undo it: denied by base:deny[3]"


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (132, "under allow: a rule with ports: [ip/132] (raw sockets never)"),
        (58, "under allow: a rule with ports: [icmp] (raw sockets never)"),
        (255, "no rule permits raw sockets"),
        (6, "no rule permits raw sockets"),  # a raw socket for TCP: a TCP socket is not refused
    ],
)
def test_refused_socket(protocol, text):
    """A socket is refused for its protocol, before any destination is known."""
    found = suggest(
        protocol=protocol, remote=None, direction=Direction.OUT, code=ReasonCode.SOCKET_TYPE
    )

    assert found == text


REFUSING = set(ReasonCode) - {
    ReasonCode.RULE,
    ReasonCode.NO_RULE,
    ReasonCode.LOOPBACK,
    ReasonCode.SOCKET_TYPE,
    ReasonCode.OBSERVED,
    ReasonCode.RESOLVER,
    ReasonCode.REBINDING,
}


@pytest.mark.parametrize("code", sorted(REFUSING, key=lambda code: code.value))
def test_reasons_no_rule_helps_against(code):
    """Packets refused for their shape are never blamed on a missing rule."""
    remote = Endpoint(ip_address("203.0.113.7"), 443, 6)
    text = suggest(protocol=6, remote=remote, direction=Direction.OUT, code=code)

    assert "cidr" not in text


ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
    st.sampled_from([block.network_address for block in ALL_BLOCKS]),
    st.sampled_from(["::", "::1", "::ffff:1.2.3.4", "2001:db8::", "64:ff9b::1"]).map(ip_address),
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    ADDRESSES,
    st.integers(0, 65535),
    st.sampled_from((6, 17, 1, 58, 132)),
    st.sampled_from(Direction),
)
def test_the_line_permits_the_flow(tmp_path, address, port, protocol, direction):
    """Pasted where it says, the line loads and permits the flow, reserved blocks included."""
    remote = Endpoint(address, port, protocol)
    text = suggest(protocol=protocol, remote=remote, direction=direction, local_port=port)
    section, _, line = text.removeprefix("under ").partition(": ")
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\nloopback: deny\n{section}:\n  {line}\n")
    decision = evaluate(
        load_policy(path),
        direction=direction,
        remote=remote,
        local_port=port,
        loopback=LoopbackScope.CLOSED,
    )

    assert decision.verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    ("to", "name", "line"),
    [
        ("hub.example.com:443", None, "- {host: hub.example.com}"),
        ("hub.example.com:8000", None, "- {host: hub.example.com, ports: [8000]}"),
        ("udp/hub.example.com:443", None, "- {host: hub.example.com, ports: [udp/443]}"),
        ("icmp/hub.example.com", None, "- {host: hub.example.com, ports: [icmp]}"),
        ("203.0.113.7:443", "hub.example.com", "- {host: hub.example.com}"),
        ("203.0.113.7:22", "hub.example.com", "- {host: hub.example.com, ports: [22]}"),
        # names do not open reserved blocks
        ("10.0.0.7:22", "hub.example.com", "- {cidr: 10.0.0.7, ports: [22]}"),
        # what YAML would take for something else
        ("null:443", None, '- {host: "null"}'),
        ("1e5.example.com:443", None, '- {host: "1e5.example.com"}'),
        # what anybody can have names below
        ("mine.github.io:443", None, "- {host: mine.github.io}"),
        ("github.io:443", None, "- {host: github.io, shared_suffix: true}"),
        # what no rule can name
        ("203.0.113.7:443", "*.example.com", "- {cidr: 203.0.113.7, ports: [443]}"),
        ("203.0.113.7:443", "co.uk", "- {cidr: 203.0.113.7, ports: [443]}"),
    ],
)
def test_line_with_a_name(to, name, line):
    """Where a name is known the line speaks of it, unless only an address helps."""
    remote = parse_target(to)
    text = suggest(protocol=remote.protocol, remote=remote, direction=Direction.OUT, name=name)

    assert text == f"under allow: {line}"


@pytest.mark.parametrize(
    ("code", "to", "name", "rule", "text"),
    [
        (
            "question",
            "udp/10.0.0.53:53",
            "x.example.com",
            None,
            "under allow: - {host: x.example.com}",
        ),
        (
            "question",
            "udp/10.0.0.53:53",
            "x.example.com",
            "p:deny[0]",
            "no allow can undo it: denied by p:deny[0]",
        ),
        ("question", "udp/10.0.0.53:53", "a b", None, "no rule can name that"),
        ("question", "udp/10.0.0.53:53", None, None, "no rule can name that"),
        (
            "not-a-question",
            "udp/10.0.0.53:53",
            None,
            None,
            "a declared DNS server takes single DNS questions: no rule helps",
        ),
        (
            "netns",
            "udp/10.0.0.53:53",
            None,
            None,
            "DNS is for the network namespace the sandbox was admitted with: no rule helps",
        ),
        (
            "forged",
            "udp/203.0.113.7:9",
            None,
            None,
            "no rule permits packets in the name of a declared DNS server",
        ),
        (
            "rebinding",
            "udp/192.168.0.7:53",
            "x.example.com",
            None,
            "under allow: - {cidr: 192.168.0.7, ports: [443]}",
        ),
        (
            "server-name",
            "203.0.113.7:8443",
            "y.example.com",
            "p:allow[0]",
            "under allow: - {host: y.example.com, ports: [8443]}",
        ),
        (
            "no-server-name",
            "203.0.113.7:443",
            "x.example.com",
            "p:allow[0]",
            "sni: optional on p:allow[0] that permits x.example.com",
        ),
        ("ech", "203.0.113.7:443", None, None, "ech: outer on the rule that permits the name"),
        (
            "quic",
            "udp/203.0.113.7:443",
            "x.example.com",
            "p:allow[0]",
            "quic: allow on p:allow[0] that permits x.example.com",
        ),
        (
            "proxy-target",
            "10.0.0.5:3128",
            "y.example.com",
            None,
            "under allow: - {host: y.example.com}",
        ),
        (
            "proxy-target",
            "10.0.0.5:3128",
            "203.0.113.7",
            None,
            "under allow: - {cidr: 203.0.113.7, ports: [443]}",
        ),
        (
            "proxy-target",
            "10.0.0.5:3128",
            None,
            None,
            "what a proxy is asked for must be permitted by another rule",
        ),
    ],
)
def test_reasons_about_names(code, to, name, rule, text):
    """Each reason comes with the line or the term that would permit, or why nothing can."""
    remote = parse_destination(to)
    found = suggest(
        protocol=remote.protocol,
        remote=remote,
        direction=Direction.OUT,
        code=ReasonCode(code),
        rule=rule,
        name=name,
    )

    assert found == text


def test_no_rule_can_name_it():
    """A public suffix itself is no name that a rule can permit."""
    remote = NamedEndpoint("co.uk", 443, 6)

    assert suggest(protocol=6, remote=remote, direction=Direction.OUT) == "no rule can name that"


LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,6}[a-z0-9_])?", fullmatch=True)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.one_of(
        st.lists(LABELS, min_size=1, max_size=4).map(".".join),
        st.text(max_size=12),
        st.sampled_from(("com", "github.io", "on", "null", "0x1.example", "*.example.com")),
    ),
    st.integers(1, 65535),
    st.sampled_from((6, 17)),
)
def test_the_line_permits_the_name(tmp_path, name, port, protocol):
    """Whatever name a sandbox chose: a line about it loads, and permits that name."""
    remote = NamedEndpoint(name, port, protocol)
    line = permit_line(protocol=protocol, remote=remote)
    if line is None:
        return
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\ndns: {{servers: [10.0.0.53]}}\nallow:\n  {line}\n")
    policy = load_policy(path)

    assert len(policy.allow) == 1
    assert policy.allow[0].patterns
    kept = policy.allow[0].patterns[0].pattern.name
    assert evaluate_name(policy, kept, protocol, port).verdict is Verdict.ALLOW


def test_describe_inspect():
    """What is read is said as policies write it, and then in words."""
    assert [describe_inspect(each) for each in Inspect] == [
        "all: what is said is read, in clear and inside TLS",
        "wire: nothing inside TLS is read",
        "none: what is said is not read, in clear or inside TLS",
    ]


def test_describe_terms():
    """Terms are said as policies write them, defaults included."""
    terms = NameTerms(sni_optional=True, ech_outer=True, quic=True)

    assert describe_terms(NameTerms()) == "sni: required, ech: refuse, quic: refuse"
    assert describe_terms(terms) == "sni: optional, ech: outer, quic: allow"


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("x.example", "x.example", 0),
        ("*.x.example", "a.x.example", 1),
        ("**.x.example", "c.b.a.x.example", 3),
    ],
)
def test_labels_below(text, name, count):
    """The star stands for that many labels."""
    assert labels_below(parse_pattern(text), name) == count
