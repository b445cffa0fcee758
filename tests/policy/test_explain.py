# SPDX-License-Identifier: Apache-2.0
"""The line that would permit a denied flow does permit it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import parse_destination
from agentwall.net.endpoint import Endpoint
from agentwall.net.reserved import ALL_BLOCKS
from agentwall.policy.evaluate import evaluate
from agentwall.policy.explain import permit_line, suggest
from agentwall.policy.load import load_policy
from agentwall.policy.model import LoopbackScope


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
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
