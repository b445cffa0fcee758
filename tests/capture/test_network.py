# SPDX-License-Identifier: Apache-2.0
"""Extension headers, fragments and tunnels, one packet at a time."""

from __future__ import annotations

import struct

import pytest
from capture.making import CLIENT6, SERVER6, ethernet, ip, pcap, read, tcp, udp
from hypothesis import given
from hypothesis import strategies as st

from agentwall.capture.link import READERS
from agentwall.capture.network import TUNNEL_PORTS, Walker

INNER = ip(tcp(b"a"), 6, "10.9.9.1", "10.9.9.2")
INNER6 = ip(tcp(b"a"), 6, "2001:db8:9::1", "2001:db8:9::2")
FRAME = ethernet(INNER)
GTP = struct.pack(">BBHIHBB", 0x34, 255, 44, 1, 0, 0, 0x85)


def _in_udp(port: int, payload: bytes) -> bytes:
    return ip(udp(payload, (50000, port)), 17)


TUNNELS = {
    "IP in IP": ip(INNER, 4),
    "6in4": ip(INNER6, 41),
    "4in6": ip(INNER, 4, CLIENT6, SERVER6),
    "GRE": ip(b"\0\0\x08\0" + INNER, 47),
    "GRE, key and sequence": ip(b"\x30\0\x08\0" + bytes(8) + INNER, 47),
    "GRE, checksum, IPv6": ip(b"\x80\0\x86\xdd" + bytes(4) + INNER6, 47),
    "GRE, Ethernet": ip(b"\0\0\x65\x58" + FRAME, 47),
    "PPTP": ip(b"\x30\x81\x88\x0b" + bytes(12) + b"\xff\x03\0\x21" + INNER, 47),
    "ERSPAN I": ip(b"\0\0\x88\xbe" + FRAME, 47),
    "ERSPAN II": ip(b"\x10\0\x88\xbe" + bytes(12) + FRAME, 47),
    "ERSPAN III": ip(b"\x10\0\x22\xeb" + bytes(16) + FRAME, 47),
    "WCCP": ip(b"\0\0\x88\x3e" + bytes(4) + INNER, 47),
    "EtherIP": ip(b"\x30\0" + FRAME, 97),
    "MPLS in IP": ip(b"\0\1\1\x40" + INNER, 137),
    "VXLAN": _in_udp(4789, b"\x08\0\0\0\0\0\5\0" + FRAME),
    "VXLAN, old port": _in_udp(8472, b"\x08\0\0\0\0\0\5\0" + FRAME),
    "VXLAN-GPE": _in_udp(4790, b"\x0c\0\0\1\0\0\5\0" + INNER),
    "Geneve": _in_udp(6081, b"\1\0\x65\x58\0\0\5\0" + bytes(4) + FRAME),
    "GTP": _in_udp(2152, struct.pack(">BBHI", 0x30, 255, len(INNER), 1) + INNER),
    "GTP, extended": _in_udp(2152, GTP + b"\1\0\0\0" + INNER),
    "GTP 0": _in_udp(2152, struct.pack(">BBH", 0x1E, 255, 41) + bytes(16) + INNER),
    "L2TP": _in_udp(1701, b"\x40\x02\0\x40\0\1\0\1\xff\x03\0\x21" + INNER),
    "Teredo": _in_udp(3544, b"\0\1\0\0" + bytes(9) + b"\0\0" + bytes(6) + INNER6),
    "CAPWAP": _in_udp(5247, b"\0\x10\2\0\0\0\0\0" + FRAME),
    "MPLS in UDP": _in_udp(6635, b"\0\1\1\x40" + INNER),
}  # fmt: skip


@pytest.mark.parametrize("name", TUNNELS)
def test_tunnels(tmp_path, name):
    """A tunnel is a flow, and so is what goes through it."""
    packet = TUNNELS[name]
    outer, inner = read(
        tmp_path, pcap([ethernet(packet, 0x86DD if packet[0] == 0x60 else 0x0800)])
    )[0]

    assert str(outer.server.address) in ("198.51.100.20", SERVER6)
    assert (inner.client_head, inner.server.port) == (b"a", 443)


def test_authenticated(tmp_path):
    """Behind an authentication header (RFC 4302) lies the packet it vouches for."""
    header = b"\x06\x04" + bytes(22)
    found, _ = read(tmp_path, pcap([ethernet(ip(header + tcp(b"a"), 51))]))

    assert [c.client.protocol for c in found] == [51, 6]
    assert found[1].client_head == b"a"


@pytest.mark.parametrize("kind", [0, 43, 60, 135])
def test_extension_headers(tmp_path, kind):
    """IPv6 extension headers are passed over, also several."""
    packet = ip(b"\x3c\1" + bytes(14) + b"\x06\0" + bytes(6) + tcp(b"a"), kind, CLIENT6, SERVER6)
    (found,), _ = read(tmp_path, pcap([ethernet(packet, 0x86DD)]))

    assert found.client_head == b"a"


def test_authenticated_in_version_6(tmp_path):
    """So are authentication headers, whose length counts otherwise."""
    packet = ip(b"\x06\4" + bytes(22) + tcp(b"a"), 51, CLIENT6, SERVER6)

    assert read(tmp_path, pcap([ethernet(packet, 0x86DD)]))[0][0].client_head == b"a"


def test_options_of_version_4(tmp_path):
    """Options of IPv4 lie before the segment."""
    packet = ip(bytes(8) + tcp(b"a"), 6)

    assert read(tmp_path, pcap([ethernet(b"\x47" + packet[1:])]))[0][0].client_head == b"a"


def _fragments(whole: bytes) -> list[bytes]:
    parts = [whole[:16], whole[16:32], whole[32:]]
    flags = [0x2000, 0x2002, 4]
    return [ethernet(ip(part, 17, fragment=flag)) for part, flag in zip(parts, flags, strict=True)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_fragments(tmp_path, order):
    """A datagram in fragments is one datagram, in whatever order they come."""
    parts = _fragments(udp(b"0123456789" * 4))
    (found,), _ = read(tmp_path, pcap([parts[n] for n in order]))

    assert [d.data for d in found.datagrams] == [b"0123456789" * 4]
    assert found.packets == 1


def test_fragments_of_version_6(tmp_path):
    """So are fragments of IPv6."""
    whole = udp(b"0123456789" * 4)
    packets = [
        ip(b"\x11\0" + struct.pack(">HI", at | more, 7) + whole[at : at + 24], 44, CLIENT6, SERVER6)
        for at, more in ((0, 1), (24, 0))
    ]
    (found,), _ = read(tmp_path, pcap([ethernet(p, 0x86DD) for p in packets]))

    assert [d.data for d in found.datagrams] == [b"0123456789" * 4]


def test_atomic_fragment(tmp_path):
    """A fragment that is the whole datagram (RFC 6946) waits for nothing."""
    packet = ip(b"\x11\0\0\0\0\0\0\1" + udp(b"a"), 44, CLIENT6, SERVER6)

    assert read(tmp_path, pcap([ethernet(packet, 0x86DD)]))[0][0].datagrams[0].data == b"a"


def test_fragments_that_stay_alone(tmp_path):
    """What came of a datagram whose end is missing is judged at the end."""
    (found,), _ = read(tmp_path, pcap(_fragments(udp(b"0123456789" * 4))[:2]))

    assert found.datagrams[0].data == (b"0123456789" * 4)[:24]


@pytest.mark.parametrize(
    "packet",
    [
        ip(tcp(b"a")[:12], 6),
        ip(tcp(b"a")[:12] + b"\x10" + bytes(20), 6),
        ip(b"1234567", 17),
        b"\x45" + bytes(10),
        b"\x41" + ip(tcp(b"a"), 6)[1:],
        b"\x60" + bytes(20),
    ],
)
def test_broken_packets(tmp_path, packet):
    """Packets too short for their headers are no flows, and no errors of the capture."""
    kind = 0x86DD if packet[0] == 0x60 else 0x0800
    found, result = read(tmp_path, pcap([ethernet(packet, kind)]))

    assert (found, result.errors) == ([], [])


def test_tunnels_in_tunnels():
    """Only so many packets lie in each other before the rest is left alone."""
    packet = INNER
    for _ in range(40):
        packet = ip(packet, 4)

    assert 5 < len(Walker().walk(101, packet, len(packet))) < 15


@given(
    data=st.binary(max_size=200),
    link=st.sampled_from(sorted(READERS)),
    start=st.sampled_from([b"", *(p[:60] for p in TUNNELS.values())]),
    changes=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), max_size=4),
)
def test_any_bytes(data, link, start, changes):
    """Whatever a packet holds, reading it raises nothing."""
    packet = bytearray(start + data)
    for at, value in changes:
        if at < len(packet):
            packet[at] = value
    walker = Walker()
    walker.walk(link, bytes(packet), len(packet))
    walker.walk(101, bytes(packet), len(packet) + 10)
    walker.finish()


@given(port=st.sampled_from(TUNNEL_PORTS), data=st.binary(max_size=100))
def test_any_tunnel(port, data):
    """Nor does any datagram to a port where packets are looked for."""
    assert len(Walker().walk(101, _in_udp(port, data), 0)) >= 1
