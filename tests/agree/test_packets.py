# SPDX-License-Identifier: Apache-2.0
"""The packet parser of the BPF programs against a plain one, on packets made to confuse it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from agree.judge import SANDBOX, Kernel, reference
from agree.packets import LOCAL_V4, LOCAL_V6
from agree.strategies import EXAMPLES, HERE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.flow.verdict import Mode, ReasonCode, Verdict
from agentwall.kernel.wall import Wall
from agentwall.net.endpoint import Endpoint
from agentwall.net.ports import ANY, whole_protocol
from agentwall.policy.compile import compile_policy
from agentwall.policy.model import (
    Loopback,
    LoopbackScope,
    OnError,
    Policy,
    Rule,
    RulePrefix,
    Section,
)

pytestmark = pytest.mark.kernel

V4 = IPv4Address("203.0.113.7")
V6 = IPv6Address("2001:db8::7")
HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
POLICY = Policy(
    name="packets",
    mode=Mode.ENFORCE,
    on_error=OnError.FAIL_CLOSED,
    refuse_with="EPERM",
    loopback=Loopback.AUTO,
    allow=(
        Rule(
            policy="packets",
            section=Section.ALLOW,
            index=0,
            prefixes=tuple(RulePrefix(ip_network(address), HERE) for address in (V4, V6)),
            ports=(*ANY, whole_protocol(132)),
            where=HERE,
        ),
    ),
    deny=(),
    inbound=(),
    tests=(),
    files=(),
    digest="",
)


def parse(kind: int, packet: bytes) -> tuple[Endpoint | None, ReasonCode | None]:
    """Return where *packet* goes, and why its shape is refused."""
    if kind == 0x0800:
        if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 15 < 5:
            return None, ReasonCode.MALFORMED
        address, protocol, offset = IPv4Address(packet[16:20]), packet[9], (packet[0] & 15) * 4
        refused = None
        if offset != 20:
            refused = ReasonCode.IP_OPTIONS
        elif struct.unpack("!H", packet[6:8])[0] & 0x3FFF:
            refused = ReasonCode.FRAGMENT
    else:
        if len(packet) < 40 or packet[0] >> 4 != 6:
            return None, ReasonCode.MALFORMED
        address = IPv6Address(packet[24:40])
        protocol, offset, refused = _walk(packet)
    port = 0
    if refused is None:
        port, refused = _transport(protocol, packet[offset:])
    return Endpoint(address, port, protocol), refused


def _walk(packet):
    following, offset = packet[6], 40
    for _ in range(4):
        if following not in (HOP, DESTINATION):
            break
        if len(packet) < offset + 2:
            return following, offset, ReasonCode.MALFORMED
        following, offset = packet[offset], offset + (packet[offset + 1] + 1) * 8
    refused = {
        ROUTING: ReasonCode.ROUTING_HEADER,
        FRAGMENT: ReasonCode.FRAGMENT,
        HOP: ReasonCode.EXTENSION_HEADERS,
        DESTINATION: ReasonCode.EXTENSION_HEADERS,
    }.get(following)
    return following, offset, refused


def _transport(protocol, body):
    need = {6: 20, 17: 8, 1: 1, 58: 1}.get(protocol, 0)
    if len(body) < need or (protocol == 6 and body[12] >> 4 < 5):
        return 0, ReasonCode.MALFORMED
    if protocol in (1, 58) and body[0] != {1: 8, 58: 128}[protocol]:
        return 0, ReasonCode.SOCKET_TYPE
    return (struct.unpack("!H", body[2:4])[0] if protocol in (6, 17) else 0), None


PROTOCOLS = st.sampled_from(
    (6, 17, 1, 58, 132, 47, 50, 51, 59, HOP, ROUTING, FRAGMENT, DESTINATION)
)
BODIES = st.one_of(
    st.just(struct.pack("!HHIIBBHHH", 4000, 443, 1, 0, 0x50, 2, 1000, 0, 0)),
    st.just(struct.pack("!HHHH", 4000, 53, 8, 0)),
    st.just(bytes((8, 0, 0, 0)) + bytes(4)),
    st.just(bytes((128, 0, 0, 0)) + bytes(4)),
    st.binary(max_size=60),
)


@st.composite
def v4_packets(draw):
    """Return an IPv4 packet whose header says anything."""
    first = draw(st.sampled_from((*(0x45,) * 12, 0x46, 0x4F, 0x48, 0x44, 0x65, 0x05)))
    fragment = draw(st.sampled_from((0, 0x4000, 0, 0x4000, 0, 0x4000, 0x2000, 1, 0x8000, 0x1FFF)))
    header = struct.pack("!BBHHHBBH", first, 0, 40, 1, fragment, 64, draw(PROTOCOLS), 0)
    remote = draw(st.sampled_from((V4, V4, IPv4Address("198.51.100.1"))))
    return 0x0800, header + LOCAL_V4.packed + remote.packed + draw(BODIES)


@st.composite
def v6_packets(draw):
    """Return an IPv6 packet behind up to six extension headers."""
    chain = draw(
        st.lists(st.sampled_from((HOP, DESTINATION) * 4 + (ROUTING, FRAGMENT)), max_size=6)
    )
    last = draw(PROTOCOLS)
    body = b""
    for following in (*chain[1:], last)[: len(chain)]:
        units = draw(st.sampled_from((*(0,) * 9, 1, 255)))
        body += bytes((following, units)) + bytes(6 + 8 * min(units, 2))
    first = draw(st.sampled_from((*(6 << 28,) * 9, 0x6FFFFFFF, 4 << 28)))
    header = struct.pack("!IHBB", first, 40, chain[0] if chain else last, 64)
    remote = draw(st.sampled_from((V6, V6, IPv6Address("2001:db8::8"))))
    return 0x86DD, header + LOCAL_V6.packed + remote.packed + body + draw(BODIES)


@st.composite
def packets(draw):
    """Return a packet, whole or cut short; prog_test_run takes none without its IP header."""
    kind, packet = draw(st.one_of(v4_packets(), v6_packets()))
    if draw(st.integers(0, 4)) == 0:
        packet = packet[: draw(st.integers(20 if kind == 0x0800 else 40, len(packet)))]
    return kind, packet


def test_parsers_agree():
    """Every packet is refused for the same shape, or judged for the same destination."""
    seen: dict[object, int] = {}
    with Wall.load(test_sandbox=SANDBOX) as wall:
        kernel = Kernel(wall)
        kernel.use(compile_policy(POLICY), LoopbackScope.FREE)

        @settings(
            max_examples=20 * EXAMPLES,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(sample=packets())
        def check(sample):
            kind, packet = sample
            remote, refused = parse(kind, packet)
            event = kernel.send_raw(bytes(12) + struct.pack("!H", kind) + packet)
            expected = refused or reference(POLICY, remote, LoopbackScope.FREE).code
            seen[expected] = seen.get(expected, 0) + 1

            assert event.code.value == getattr(expected, "value", expected)
            if refused:
                assert event.verdict is Verdict.DENY
            else:
                assert event.remote == remote

        check()

    assert len(seen) == 8, "every refusal, a rule and no rule"
    assert min(seen.values()) >= EXAMPLES // 10
