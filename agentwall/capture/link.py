# SPDX-License-Identifier: Apache-2.0
"""From a packet of any link type to the network packet in it, one packet at a time.

Numbers are LINKTYPE_ values (www.tcpdump.org/linktypes.html) and EtherTypes (IEEE 802). What is not
known here holds no IP that could be found. The quick way for the usual ones is in
:mod:`agentwall.capture.headers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

IPV4, IPV6 = 0x0800, 0x86DD
ETHERNET_BRIDGED = 0x6558
MPLS = (0x8847, 0x8848)
VLANS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)

Network = tuple[int, bytes]
"""An EtherType, and the packet."""

ETHERNET, RAW, SLL, SLL2 = 1, 101, 113, 276
RAWS = (12, 14, 101, 228, 229)
_MAX_TAGS = 16
_PPP_TYPES = {0x21: IPV4, 0x57: IPV6, 0x281: MPLS[0], 0x283: MPLS[1]}
_SNAP = b"\xaa\xaa\x03"
_IPV6_FAMILIES = (10, 24, 28, 30)


def by_version(data: bytes) -> Network | None:
    """Tell IPv4 from IPv6 by the first four bits."""
    version = data[0] >> 4 if data else 0
    return {4: (IPV4, data), 6: (IPV6, data)}.get(version)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def ethernet(data: bytes) -> Network | None:
    """Read an Ethernet frame: DIX, or IEEE 802.3 with LLC and SNAP."""
    return behind_type(_word(data, 12), data[14:]) if len(data) > 14 else None


def behind_type(kind: int, data: bytes) -> Network | None:
    """Go past tags (VLAN, VN, E, I, NSH, PPPoE) to the network packet."""
    for _ in range(_MAX_TAGS):
        if kind in VLANS:
            kind, data = _word(data, 2), data[4:]
        elif kind == 0x8864:  # PPPoE session, RFC 2516
            return _ppp_payload(data[6:])
        elif kind == 0x8926:  # VN-Tag
            kind, data = _word(data, 4), data[6:]
        elif kind == 0x893F:  # E-Tag, IEEE 802.1BR
            kind, data = _word(data, 6), data[8:]
        elif kind == 0x88E7:  # I-Tag, IEEE 802.1ah: a whole frame behind it
            return (ETHERNET_BRIDGED, data[4:])
        elif kind == 0x894F:  # NSH, RFC 8300
            return _nsh(data)
        elif kind < 0x600:
            return llc(data)
        else:
            return (kind, data)
    return None


def _nsh(data: bytes) -> Network | None:
    if len(data) < 8:
        return None
    inner = data[max(8, (_word(data, 0) & 0x3F) * 4) :]
    kinds = {1: IPV4, 2: IPV6, 3: ETHERNET_BRIDGED, 5: MPLS[0]}
    return (kinds[data[3]], inner) if data[3] in kinds else None


def llc(data: bytes) -> Network | None:
    """Read IEEE 802.2 LLC, with SNAP or RFC 1042's plain IP."""
    if data[:3] == _SNAP:
        kind = _word(data, 6)
        return behind_type(kind, data[8:]) if kind >= 0x600 else None
    if data[:2] == b"\x06\x06":
        return by_version(data[3:])
    if data[:2] in (b"\xfe\xfe", b"\xfe\xff") and data[3:4] == b"\xcc":  # RFC 1490 NLPID
        return by_version(data[4:])
    return None


def ppp(data: bytes) -> Network | None:
    """Read a PPP frame (RFC 1661), with or without address and control bytes."""
    if data[:1] == b"\x7e":
        data = data[1:]
    if data[:2] == b"\xff\x03":
        data = data[2:]
    elif data[:1] in (b"\x0f", b"\x8f") and data[1:2] == b"\x00":  # Cisco HDLC in PPP's name
        return chdlc(data)
    return _ppp_payload(data)


def _ppp_payload(data: bytes) -> Network | None:
    if not data:
        return None
    if data[0] & 1:  # RFC 1661 section 6.5: the protocol in one byte
        kind, data = data[0], data[1:]
    else:
        kind, data = _word(data, 0), data[2:]
    return (_PPP_TYPES[kind], data) if kind in _PPP_TYPES else None


def chdlc(data: bytes) -> Network | None:
    """Read Cisco HDLC."""
    return behind_type(_word(data, 2), data[4:]) if len(data) > 4 else None


def _null(data: bytes) -> Network | None:
    # The family is in the byte order of whoever captured.
    for order in ("little", "big"):
        family = int.from_bytes(data[:4], order)
        if family == 2 or family in _IPV6_FAMILIES:
            return by_version(data[4:])
        if family >= 0x600 and family in (IPV4, IPV6):
            return (family, data[4:])
    return None


def _frame_relay(data: bytes) -> Network | None:
    # RFC 2427: a Q.922 address of 2 to 4 bytes, the last with its lowest bit set.
    for size in (2, 3, 4):
        if len(data) > size and data[size - 1] & 1:
            if data[size] != 0x03:
                return behind_type(_word(data, size), data[size + 2 :])
            at = size + 1 + (data[size + 1 : size + 2] == b"\x00")
            nlpid, rest = data[at : at + 1], data[at + 1 :]
            if nlpid == b"\x80":
                return _snap_body(rest)
            return by_version(rest) if nlpid in (b"\xcc", b"\x8e") else None
    return None


def _snap_body(data: bytes) -> Network | None:
    organisation, kind = data[:3], _word(data, 3)
    if organisation == b"\x00\x80\xc2":  # bridged Ethernet, with (1) and without (7) its checksum
        return (ETHERNET_BRIDGED, data[5:]) if kind in (1, 7) else None
    return behind_type(kind, data[5:]) if kind >= 0x600 else None


def wifi(data: bytes) -> Network | None:
    """Read an IEEE 802.11 data frame that is not encrypted."""
    if len(data) < 24 or data[0] & 0x0C != 0x08 or data[1] & 0x40 or data[0] & 0x40:
        return None
    at = 24
    if data[1] & 3 == 3:
        at += 6
    if data[0] & 0x80:
        if _word(data, at) & 0x8000:  # A-MSDU: the first of the frames in it
            return llc(data[at + 16 + 4 * (data[1] >> 7) :])
        at += 2 + 4 * (data[1] >> 7)
    found = llc(data[at:])
    return found or llc(data[at + -at % 4 :])  # some drivers pad the header to four bytes


def _radiotap(data: bytes) -> Network | None:
    size = int.from_bytes(data[2:4], "little")
    return wifi(data[size:]) if 8 <= size < len(data) else None


def _ppi(data: bytes) -> Network | None:
    size, link = int.from_bytes(data[2:4], "little"), int.from_bytes(data[4:8], "little")
    reader = READERS.get(link)
    return reader(data[size:]) if reader and reader is not _ppi and size >= 8 else None


def _prism(data: bytes) -> Network | None:
    if data[:4] in (b"\x80\x21\x10\x01", b"\x80\x21\x10\x02"):
        return wifi(data[int.from_bytes(data[4:8], "big") or 64 :])
    return wifi(data[144:])


def _nflog(data: bytes) -> Network | None:
    at = 4
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        kind = int.from_bytes(data[at + 2 : at + 4], "little") & 0x7FFF
        if size < 4:
            return None
        if kind == 9:  # NFULA_PAYLOAD
            return by_version(data[at + 4 : at + size])
        at += size + -size % 4
    return None


def _pflog(data: bytes) -> Network | None:
    return by_version(data[(data[0] + 3) & ~3 :]) if data else None


def _slip(data: bytes) -> Network | None:
    return by_version(data[16:]) or by_version(data)


def _sll(data: bytes) -> Network | None:
    kind, hardware = _word(data, 14), _word(data, 2)
    if hardware == 778 and kind not in (IPV4, IPV6):  # GRE: the kind is GRE's own
        return by_version(data[16:])
    return behind_type(kind, data[16:]) if kind >= 0x600 else llc(data[16:])


def _sll2(data: bytes) -> Network | None:
    kind = _word(data, 0)
    return behind_type(kind, data[20:]) if kind >= 0x600 else llc(data[20:])


def _token_ring(data: bytes) -> Network | None:
    if len(data) < 14:
        return None
    return llc(data[14 + (data[14] & 0x1F if data[8] & 0x80 and len(data) > 14 else 0) :])


def _arcnet(data: bytes, at: int) -> Network | None:
    kind = data[at] if len(data) > at else 0
    if kind in (0xF0, 0xF1):  # RFC 1051
        return by_version(data[at + 1 :]) if kind == 0xF0 else None
    if kind in (0xD4, 0xC4):  # RFC 1201, whole packets: a split flag and a sequence number
        behind = data[at + 1 :]
        if behind[:1] == b"\xff":
            behind = behind[4:]
        return by_version(behind[3:]) if behind[:1] == b"\x00" else None
    return None


def _atm(data: bytes) -> Network | None:
    return llc(data) or by_version(data)


def _dsa_ethernet(data: bytes) -> Network | None:
    # Marvell's tag lies between the addresses and the EtherType: 4 bytes, with EDSA 8.
    size = 8 if _word(data, 12) in (0xDADA, 0x9100) else 4
    return behind_type(_word(data, 12 + size), data[14 + size :])


READERS: Mapping[int, Callable[[bytes], Network | None]] = {
    0: _null,
    1: ethernet,
    6: _token_ring,
    7: lambda data: _arcnet(data, 2),
    8: _slip,
    9: ppp,
    10: lambda data: llc(data[13:]),
    11: _atm,
    **dict.fromkeys(RAWS, by_version),
    50: ppp,
    51: lambda data: _ppp_payload(data[6:]),
    100: _atm,
    104: chdlc,
    105: wifi,
    106: _atm,
    107: _frame_relay,
    108: _null,
    109: lambda data: by_version(data[12:]),
    113: _sll,
    117: _pflog,
    119: _prism,
    122: lambda data: behind_type(_word(data, 16), data[18:]),
    123: lambda data: _atm(data[4:]),
    127: _radiotap,
    129: lambda data: _arcnet(data, 4),
    138: lambda data: behind_type(_word(data, 16), data[18:]),
    163: lambda data: wifi(data[int.from_bytes(data[4:8], "big") :]),
    166: lambda data: ppp(data[2:]),
    192: _ppi,
    204: lambda data: ppp(data[1:]),
    205: lambda data: chdlc(data[1:]),
    206: lambda data: _frame_relay(data[1:]),
    239: _nflog,
    242: lambda data: behind_type(_word(data, 40), data[44:]),
    276: _sll2,
    284: _dsa_ethernet,
    285: _dsa_ethernet,
}
"""By link type: from a packet to what it carries, or nothing. Any bytes are taken."""
