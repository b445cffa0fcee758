# SPDX-License-Identifier: Apache-2.0
"""A packet of each link type, and any bytes."""

from __future__ import annotations

import struct

import pytest
from capture.making import CLIENT6, SERVER6, ethernet, ip, pcap, read, tcp
from hypothesis import given
from hypothesis import strategies as st

from agentwall.capture.link import READERS

PACKET = ip(tcp(b"a"), 6)
PACKET6 = ip(tcp(b"a"), 6, CLIENT6, SERVER6)
SNAP = b"\xaa\xaa\x03\0\0\0\x08\0"
NFLOG = struct.pack("<BBHHH", 2, 0, 0, 6, 10) + b"ab\0\0"
DATA_FRAME = b"\x08\x01" + bytes(22)


def _tag(kind: int, body: bytes) -> bytes:
    return ethernet(body, kind)


FRAMES = {
    "null": (0, struct.pack("<I", 2) + PACKET),
    "null, other byte order": (0, struct.pack(">I", 2) + PACKET),
    "null, IPv6": (0, struct.pack("<I", 30) + PACKET6),
    "null with an EtherType": (0, struct.pack(">I", 0x0800) + PACKET),
    "ethernet": (1, ethernet(PACKET)),
    "ethernet, IPv6": (1, ethernet(PACKET6, 0x86DD)),
    "ethernet, VLAN": (1, _tag(0x8100, b"\0\5\x08\0" + PACKET)),
    "ethernet, QinQ": (1, _tag(0x88A8, b"\0\5\x81\0\0\6\x86\xdd" + PACKET6)),
    "ethernet, old QinQ": (1, _tag(0x9100, b"\0\5\x81\0\0\6\x08\0" + PACKET)),
    "ethernet, three VLANs": (1, _tag(0x8100, b"\0\5\x81\0\0\6\x81\0\0\7\x08\0" + PACKET)),
    "ethernet, SNAP": (1, _tag(len(SNAP + PACKET), SNAP + PACKET)),
    "ethernet, VLAN and SNAP": (1, _tag(0x8100, b"\0\5\0\x40" + SNAP + PACKET)),
    "ethernet, MPLS": (1, _tag(0x8847, b"\0\1\0\x40\0\1\1\x40" + PACKET)),
    "ethernet, MPLS, pseudowire": (1, _tag(0x8847, b"\0\1\1\x40\0\0\0\0" + ethernet(PACKET))),
    "ethernet, PPPoE": (1, _tag(0x8864, b"\x11\0\0\1\0\x40\0\x21" + PACKET)),
    "ethernet, PPPoE, IPv6": (1, _tag(0x8864, b"\x11\0\0\1\0\x40\0\x57" + PACKET6)),
    "ethernet, VN-Tag": (1, _tag(0x8926, bytes(4) + b"\x08\0" + PACKET)),
    "ethernet, E-Tag": (1, _tag(0x893F, bytes(6) + b"\x08\0" + PACKET)),
    "ethernet, I-Tag": (1, _tag(0x88E7, bytes(4) + ethernet(PACKET))),
    "ethernet, NSH": (1, _tag(0x894F, b"\0\2\1\1\0\0\0\0" + PACKET)),
    "token ring": (6, bytes(14) + SNAP + PACKET),
    "token ring, source routed": (6, bytes(8) + b"\x80" + bytes(5) + b"\x02\0" + SNAP + PACKET),
    "arcnet": (7, b"\1\2\xf0" + PACKET),
    "slip": (8, bytes(16) + PACKET),
    "ppp": (9, b"\xff\x03\0\x21" + PACKET),
    "ppp, short": (9, b"\x21" + PACKET),
    "fddi": (10, bytes(13) + SNAP + PACKET),
    "raw": (101, PACKET),
    "raw, IPv6": (12, PACKET6),
    "rfc 1483": (100, SNAP + PACKET),
    "ppp serial": (50, b"\xff\x03\0\x21" + PACKET),
    "ppp ethernet": (51, b"\x11\0\0\1\0\x40\0\x21" + PACKET),
    "cisco hdlc": (104, b"\x0f\0\x08\0" + PACKET),
    "802.11": (105, DATA_FRAME + SNAP + PACKET),
    "802.11, QoS": (105, b"\x88\x01" + bytes(24) + SNAP + PACKET),
    "802.11, four addresses": (105, b"\x08\x03" + bytes(28) + SNAP + PACKET),
    "802.11, A-MSDU": (105, b"\x88\x01" + bytes(22) + b"\x80\0" + bytes(14) + SNAP + PACKET),
    "classical IP over ATM": (106, SNAP + PACKET),
    "frame relay": (107, b"\x18\x41\x03\xcc" + PACKET),
    "frame relay, SNAP": (107, b"\x18\x41\x03\0\x80\0\0\0\x08\0" + PACKET),
    "frame relay, Cisco's": (107, b"\x18\x41\x08\0" + PACKET),
    "loop": (108, struct.pack(">I", 2) + PACKET),
    "enc": (109, bytes(12) + PACKET),
    "linux cooked": (113, bytes(14) + b"\x08\0" + PACKET),
    "linux cooked, VLAN": (113, bytes(14) + b"\x81\0\0\5\x08\0" + PACKET),
    "linux cooked 2": (276, b"\x86\xdd" + bytes(18) + PACKET6),
    "pflog": (117, b"\x3d" + bytes(63) + PACKET),
    "prism": (119, bytes(144) + DATA_FRAME + SNAP + PACKET),
    "IP over Fibre Channel": (122, bytes(16) + b"\x08\0" + PACKET),
    "sunatm": (123, bytes(4) + SNAP + PACKET),
    "radiotap": (127, b"\0\0\x08\0" + bytes(4) + DATA_FRAME + SNAP + PACKET),
    "arcnet linux": (129, b"\1\2\0\0\xd4\0\0\0" + PACKET),
    "firewire": (138, bytes(16) + b"\x08\0" + PACKET),
    "avs": (163, struct.pack(">II", 0x80211001, 64) + bytes(56) + DATA_FRAME + SNAP + PACKET),
    "pppd": (166, b"\0\0\xff\x03\0\x21" + PACKET),
    "ppi": (192, struct.pack("<BBHI", 0, 0, 8, 105) + DATA_FRAME + SNAP + PACKET),
    "ppp with direction": (204, b"\1\xff\x03\0\x21" + PACKET),
    "cisco hdlc with direction": (205, b"\1\x0f\0\x08\0" + PACKET),
    "frame relay with direction": (206, b"\1\x18\x41\x03\xcc" + PACKET),
    "IPv4": (228, PACKET),
    "IPv6": (229, PACKET6),
    "nflog": (239, NFLOG + struct.pack("<HH", 4 + len(PACKET), 9) + PACKET),
    "IP over InfiniBand": (242, bytes(40) + b"\x08\0\0\0" + PACKET),
    "DSA": (284, bytes(12) + b"\x40\0\0\0\x08\0" + PACKET),
    "EDSA": (285, bytes(12) + b"\xda\xda\0\0\x40\0\0\0\x08\0" + PACKET),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_link_types(tmp_path, name):
    """The flow in a frame of each kind is found."""
    link, frame = FRAMES[name]
    (found,), result = read(tmp_path, pcap([frame, frame], link))

    assert (found.client_head, found.packets, result.errors) == (b"a", 2, [])


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, ethernet(bytes(28), 0x0806)),
        (1, ethernet(b"\x42\x42\x03" + bytes(40), 43)),
        (105, b"\x08\x41" + bytes(22) + SNAP + PACKET),
        (105, b"\x80\x00" + bytes(60)),
        (9, b"\xff\x03\xc0\x21" + bytes(20)),
        (147, PACKET),
        (271, bytes(60)),
    ],
)
def test_no_flows(tmp_path, link, frame):
    """Frames without IP, encrypted ones and unknown link types are packets, and no error."""
    found, result = read(tmp_path, pcap([frame], link))

    assert (found, result.packets, result.errors) == ([], 1, [])


@given(data=st.binary(max_size=80), link=st.sampled_from(sorted(READERS)))
def test_any_bytes(data, link):
    """Whatever a frame holds, reading it raises nothing."""
    READERS[link](data)
