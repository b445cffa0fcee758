# SPDX-License-Identifier: Apache-2.0
"""What flows add up to, and which leave first."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from agentwall.capture.flows import Endpoints, Flow, FlowTable, Side, client_of, conversation
from agentwall.net.endpoint import Endpoint


def _key(number: int, ports: tuple[int, int] = (1000, 80), protocol: int = 6) -> bytes:
    a, b = bytes(12) + struct.pack(">I", number), bytes(12) + bytes([192, 0, 2, 1])
    return a + b + struct.pack("<HHBB", *ports, protocol, 0)


def _flow(number: int, end_ns: int = 0, **more) -> Flow:
    return Flow(_key(number, **more), more.get("protocol", 6), end_ns, end_ns, 0)


def test_the_idlest_leave():
    """Above the limit of flows those go whose last packet is the oldest."""
    table = FlowTable(max_flows=32)
    for number in range(34):
        flow = _flow(number, end_ns=(number * 7) % 34)
        table.flows[flow.key] = flow
    table.make_room()

    assert [flow.end_ns for flow in table.ended] == [0, 1]
    assert (len(table.flows), table.evicted) == (32, 2)


def test_those_that_hold_much_leave():
    """Above the limit of bytes flows leave until it is kept; what they held no longer counts."""
    table = FlowTable(max_held=1000)
    for number in range(4):
        flow = _flow(number, end_ns=number)
        table.flows[flow.key] = flow
        table.hold(flow, 400)
    table.make_room()

    assert (table.held, len(table.flows)) == (800, 2)


def test_order_of_conversations():
    """Those that ended come first, then all others as they began."""
    table = FlowTable()
    for number in (3, 1, 2):
        flow = _flow(number)
        table.flows[flow.key] = flow
    table.end(table.flows[_key(2)])
    found = [str(c.client.address) for c in table.take_all()]

    assert found == ["0.0.0.2", "0.0.0.3", "0.0.0.1"]
    assert (table.flows, list(table.take_all())) == ({}, [])


@pytest.mark.parametrize(
    ("flow", "client"),
    [
        (_flow(1), 0),
        (_flow(1, ports=(80, 1000)), 1),
        (_flow(1, ports=(53, 1000), protocol=17), 0),
        (_flow(1, ports=(80, 80)), 0),
    ],
)
def test_client(flow, client):
    """TCP from the middle: the higher port; else, or if they are equal, the first to speak."""
    assert client_of(flow) == client


def test_bytes():
    """Payload counts no further than sequence numbers went on, across their end too."""
    side = Side(payload=300)
    side.advance(0xFFFFFFF0, 0x10)
    side.advance(0xFFFFFFF0, 0x10)
    side.advance(0x40, 0x50)

    assert (side.span, side.bytes) == (0x60, 0x60)
    assert Side(payload=7).bytes == 7


def test_endpoints():
    """Addresses in a key are canonical: the IPv4 address that an IPv6 one stands for."""
    mapped = ip_address("::ffff:192.0.2.7").packed
    key = mapped + ip_address("2001:db8::1").packed + struct.pack("<HHBB", 5, 6, 17, 1)

    assert Endpoints().of(key) == (
        Endpoint(ip_address("192.0.2.7"), 5, 17),
        Endpoint(ip_address("2001:db8::1"), 6, 17),
    )


def test_a_flow_without_anything():
    """A flow of which nothing is known but that it was is a conversation."""
    found = conversation(_flow(1, protocol=47), Endpoints())

    assert (found.client_head, found.datagrams, found.messages, found.name) == (b"", (), (), None)
    assert not found.is_midstream
