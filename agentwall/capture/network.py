# SPDX-License-Identifier: Apache-2.0
"""From a packet of any kind to the transport packets in it, one packet at a time.

This is the slow way, for what :mod:`agentwall.capture.headers` passes on: unusual link types, tags,
IPv6 extension headers, fragments, tunnels. A tunnel's packets come out besides what carries them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentwall.capture.fragments import Fragments
from agentwall.capture.link import (
    ETHERNET_BRIDGED,
    IPV4,
    IPV6,
    MPLS,
    READERS,
    Network,
    behind_type,
    by_version,
    ethernet,
    ppp,
)

ICMP, IPIP, TCP, UDP, IPV6_IN_IP, GRE, ICMPV6 = 1, 4, 6, 17, 41, 47, 58
_AH, _ETHERIP, _MPLS_IN_IP = 51, 97, 137
CARRIERS = (IPIP, IPV6_IN_IP, GRE, _AH, _ETHERIP, _MPLS_IN_IP)
"""Protocols that packets are looked for in."""
ECHOES = {ICMP: (8, 0), ICMPV6: (128, 129)}
"""Type numbers of echo request and reply."""
TUNNEL_PORTS = (1701, 2152, 3544, 4789, 4790, 5247, 6081, 6635, 8472)
"""UDP ports behind which packets are looked for."""
SYN, ACK = 2, 16
_MAX_DEPTH = 8
_MAX_HEADERS = 16
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION, 135, 139, 140)
"""IPv6 headers that another header follows (IANA: IPv6 Extension Header Types), but AH."""


@dataclass(frozen=True, slots=True)
class Transported:
    """One packet of one flow."""

    source: bytes
    """4 or 16 bytes."""
    destination: bytes
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    payload: bytes = b""
    """As much of it as was captured."""
    size: int = 0
    """Bytes of payload on the wire."""
    flags: int = 0
    """TCP's. Of an ICMP echo, :data:`SYN` marks the request."""
    sequence: int = 0
    acknowledged: int = 0


@dataclass(slots=True)
class _Packet:
    # An IP packet without its headers.
    source: bytes
    destination: bytes
    protocol: int
    data: bytes
    missing: int
    """Bytes that the packet had behind *data*."""


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


@dataclass(slots=True)
class Walker:
    """Takes packets apart; holds the fragments of one capture."""

    fragments: Fragments = field(default_factory=Fragments)
    _found: list[Transported] = field(default_factory=list)

    def walk(self, link: int, data: bytes, wire: int) -> list[Transported]:
        """Return the transport packets in one captured packet, the outermost first.

        Args:
            link: LINKTYPE_ number.
            data: What was captured.
            wire: Bytes that the packet had.
        """
        self._found = []
        reader = READERS.get(link)
        if reader is not None and data:
            self._network(reader(data), max(0, wire - len(data)), 0)
        self._add_partial(is_end=False)
        return self._found

    def finish(self) -> list[Transported]:
        """Return what there is of datagrams that never became whole."""
        self._found = []
        self._add_partial(is_end=True)
        return self._found

    def _add_partial(self, *, is_end: bool) -> None:
        for key, data in self.fragments.partial(is_end=is_end):
            assert isinstance(key, tuple)
            source, destination, protocol, _ = key
            self._transport(_Packet(source, destination, protocol, data, 0), _MAX_DEPTH)

    def _network(self, network: Network | None, missing: int, depth: int) -> None:
        if network is None or depth > _MAX_DEPTH:
            return
        kind, data = network
        if kind == IPV4:
            self._ipv4(data, missing, depth)
        elif kind == IPV6:
            self._ipv6(data, missing, depth)
        elif kind in MPLS:
            self._mpls(data, missing, depth)
        elif kind == ETHERNET_BRIDGED:
            self._network(ethernet(data), missing, depth + 1)

    def _mpls(self, data: bytes, missing: int, depth: int) -> None:
        for at in range(0, min(len(data), 64), 4):
            if _number(data, at + 2, 1) & 1:
                inner = data[at + 4 :]
                found = by_version(inner)
                if found is None:  # a pseudowire, RFC 4448, with its control word or without
                    behind = inner[4:] if inner[:1] == b"\x00" else inner
                    found = ethernet(behind)
                self._network(found, missing, depth + 1)
                return

    def _ipv4(self, data: bytes, missing: int, depth: int) -> None:
        size = (data[0] & 15) * 4 if data else 0
        if len(data) < 20 or data[0] >> 4 != 4 or size < 20:
            return
        total = _number(data, 2, 2)
        if total >= size:  # 0 where the network card was to cut it up
            missing = max(0, min(total - len(data), missing))
            data = data[:total]
        source, destination, protocol = data[12:16], data[16:20], data[9]
        fragment = _number(data, 6, 2)
        body = data[size:]
        if fragment & 0x3FFF:
            key = (source, destination, protocol, data[4:6])
            whole = self.fragments.add(
                key, (fragment & 0x1FFF) * 8, body, is_last=not fragment & 0x2000
            )
            if whole is None:
                return
            body, missing = whole, 0
        self._transport(_Packet(source, destination, protocol, body, missing), depth)

    def _ipv6(self, data: bytes, missing: int, depth: int) -> None:
        if len(data) < 40 or data[0] >> 4 != 6:
            return
        size = _number(data, 4, 2)
        if size:
            missing = max(0, min(size + 40 - len(data), missing))
            data = data[: size + 40]
        source, destination, kind, body = data[8:24], data[24:40], data[6], data[40:]
        for _ in range(_MAX_HEADERS):
            if len(body) < 8:
                break
            if kind == _AH:
                kind, body = body[0], body[(body[1] + 2) * 4 :]
            elif kind == _FRAGMENT:
                offset = _number(body, 2, 2)
                kind, identification, body = body[0], body[4:8], body[8:]
                if offset & 0xFFF9:  # else an atomic fragment, RFC 6946
                    key = (source, destination, kind, identification)
                    whole = self.fragments.add(key, offset & 0xFFF8, body, is_last=not offset & 1)
                    if whole is None:
                        return
                    body, missing = whole, 0
            elif kind in EXTENSIONS:
                kind, body = body[0], body[(body[1] + 1) * 8 :]
            else:
                break
        self._transport(_Packet(source, destination, kind, body, missing), depth)

    def _transport(self, packet: _Packet, depth: int) -> None:
        protocol = packet.protocol
        if protocol == TCP:
            self._tcp(packet)
        elif protocol == UDP:
            self._udp(packet, depth)
        elif protocol in ECHOES:
            self._icmp(packet)
        else:
            self._other(packet, depth)

    def _add(self, packet: _Packet, at: int, **more: int) -> None:
        payload = packet.data[at:]
        self._found.append(
            Transported(
                packet.source,
                packet.destination,
                packet.protocol,
                payload=payload,
                size=len(payload) + packet.missing,
                **more,
            )
        )

    def _tcp(self, packet: _Packet) -> None:
        data = packet.data
        at = (data[12] >> 4) * 4 if len(data) >= 20 else 0
        if at >= 20:
            self._add(
                packet,
                at,
                source_port=_number(data, 0, 2),
                destination_port=_number(data, 2, 2),
                sequence=_number(data, 4, 4),
                acknowledged=_number(data, 8, 4),
                flags=data[13],
            )

    def _udp(self, packet: _Packet, depth: int) -> None:
        if len(packet.data) < 8:
            return
        size = _number(packet.data, 4, 2)
        if 8 <= size < len(packet.data) + packet.missing:
            packet.missing = max(0, size - len(packet.data))
            packet.data = packet.data[:size]
        ports = _number(packet.data, 0, 2), _number(packet.data, 2, 2)
        self._add(packet, 8, source_port=ports[0], destination_port=ports[1])
        for port in reversed(ports):
            if port in TUNNEL_PORTS:
                self._network(_in_udp(port, packet.data[8:]), packet.missing, depth + 1)
                return

    def _icmp(self, packet: _Packet) -> None:
        kinds = ECHOES[packet.protocol]
        if len(packet.data) >= 8 and packet.data[0] in kinds:
            self._add(packet, 8, flags=SYN if packet.data[0] == kinds[0] else 0)
        else:
            self._found.append(Transported(packet.source, packet.destination, packet.protocol))

    def _other(self, packet: _Packet, depth: int) -> None:
        size = len(packet.data) + packet.missing
        self._found.append(
            Transported(packet.source, packet.destination, packet.protocol, size=size)
        )
        data = packet.data
        inner: Network | None = None
        if packet.protocol in (IPIP, IPV6_IN_IP):
            inner = by_version(data)
        elif packet.protocol == _AH and len(data) >= 8:
            behind = _Packet(packet.source, packet.destination, data[0], data, packet.missing)
            behind.data = data[(data[1] + 2) * 4 :]
            if depth < _MAX_DEPTH:
                self._transport(behind, depth + 1)
        elif packet.protocol == GRE:
            inner = _gre(data)
        elif packet.protocol == _ETHERIP:
            inner = ethernet(data[2:])
        elif packet.protocol == _MPLS_IN_IP:
            inner = (MPLS[0], data)
        self._network(inner, packet.missing, depth + 1)


def _gre(data: bytes) -> Network | None:
    # RFC 2784 and 2890, with RFC 1701's routing left out; version 1 is PPTP's (RFC 2637).
    if len(data) < 4:
        return None
    flags, kind = data[0], _number(data, 2, 2)
    at = 4 + 4 * bool(flags & 0x80) + 4 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    if data[1] & 7 == 1:
        at += 4 * bool(data[1] & 0x80)
        return ppp(data[at:]) if kind == 0x880B else None
    if kind == 0x88BE:  # ERSPAN: type I has no sequence number and no header of its own
        return (ETHERNET_BRIDGED, data[at + (8 if flags & 0x10 else 0) :])
    if kind == 0x22EB:
        return (ETHERNET_BRIDGED, data[at + 12 :])
    if kind == 0x883E:  # WCCP: version 2 puts 4 bytes before the packet
        return by_version(data[at:]) or by_version(data[at + 4 :])
    return behind_type(kind, data[at:])


def _in_udp(port: int, data: bytes) -> Network | None:
    if len(data) < 8:
        return None
    if port in (4789, 8472):  # VXLAN, RFC 7348
        return (ETHERNET_BRIDGED, data[8:]) if data[0] & 0x08 else None
    if port == 4790:  # VXLAN-GPE
        kinds = {1: IPV4, 2: IPV6, 3: ETHERNET_BRIDGED}
        return (kinds[data[3]], data[8:]) if data[3] in kinds else None
    if port == 6081:  # Geneve, RFC 8926
        kind = _number(data, 2, 2)
        return behind_type(kind, data[8 + (data[0] & 0x3F) * 4 :]) if data[0] < 0x40 else None
    if port == 2152:
        return _gtp(data)
    if port == 1701:
        return _l2tp(data)
    if port == 3544:
        return _teredo(data)
    if port == 6635:  # RFC 7510
        return (MPLS[0], data)
    return _capwap(data)


def _gtp(data: bytes) -> Network | None:
    # 3GPP TS 29.281: G-PDU is message 255. Version 0 (GSM 09.60) has 20 bytes.
    if data[1] != 255:
        return None
    if data[0] >> 5 == 0:
        return by_version(data[20:])
    at = 8
    if data[0] & 7:
        at, kind = 12, data[11] if len(data) > 11 else 0
        for _ in range(_MAX_HEADERS):
            if not (data[0] & 4 and kind) or at >= len(data) or not data[at]:
                break
            at += data[at] * 4
            kind = _number(data, at - 1, 1)
    return by_version(data[at:])


def _l2tp(data: bytes) -> Network | None:
    # RFC 2661: data messages only.
    flags = _number(data, 0, 2)
    if flags & 0x8000 or flags & 0xF != 2:
        return None
    at = 6 + 2 * bool(flags & 0x4000) + 4 * bool(flags & 0x0800)
    if flags & 0x0200:
        at += 2 + _number(data, at, 2)
    return ppp(data[at:])


def _teredo(data: bytes) -> Network | None:
    # RFC 4380 section 5.1.1: authentication, then origin, then the packet.
    if data[:2] == b"\x00\x01":
        data = data[13 + data[2] + data[3] :]
    if data[:2] == b"\x00\x00":
        data = data[8:]
    return (IPV6, data) if data[:1] and data[0] >> 4 == 6 else None


def _capwap(data: bytes) -> Network | None:
    # RFC 5415 section 4.3: the header's length in words is in bits 8 to 12. Only 802.3 frames.
    at = (data[1] >> 3) * 4
    if data[0] & 0x0F or at < 8:
        return None
    if data[2] & 0x01:  # T: the frame has its native format, which is 802.11
        return READERS[105](data[at:])
    return (ETHERNET_BRIDGED, data[at:])
