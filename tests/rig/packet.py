# SPDX-License-Identifier: Apache-2.0
"""Frames off a wire as typed values: the true addresses, ports and payload. Pure.

Reads what it can and never refuses: a malformed packet is a packet that crossed.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
_ETHERNET_BYTES = 14
_UDPLITE = 136
_FRAGMENT = 44
_EXTENSIONS = (0, 43, _FRAGMENT, 60)
# Multicast listener (130-132, 143) and neighbour discovery (133-137).
_BACKGROUND_ICMP6 = (*range(130, 138), 143)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One frame that crossed."""

    raw: bytes
    """From the Ethernet header on."""
    ether_type: int
    source: str = ""
    """Empty where the frame is not IP, or too short to say."""
    destination: str = ""
    protocol: int | None = None
    """IANA number, behind any IPv6 extension headers."""
    source_port: int = 0
    destination_port: int = 0
    sequence: int = 0
    """Of TCP: the number of the payload's first octet."""
    tcp_flags: int = 0
    icmp_type: int | None = None
    payload: bytes = b""
    """What TCP, UDP or ICMP carries; behind the IP header for anything else."""

    @property
    def is_background(self) -> bool:
        """True for what a kernel says unasked: ARP, neighbour discovery, multicast reports."""
        if self.protocol == socket.IPPROTO_ICMPV6:
            return self.icmp_type in _BACKGROUND_ICMP6
        return self.ether_type == ETH_P_ARP

    def is_to(self, address: str, port: int | None = None) -> bool:
        """True if it was sent to *address*, and to *port* if one is given."""
        return self.destination == address and port in (None, self.destination_port)


def parse_frame(raw: bytes) -> Packet:
    """Read one Ethernet frame."""
    ether_type = int.from_bytes(raw[12:14], "big")
    body = raw[_ETHERNET_BYTES:]
    if ether_type == ETH_P_IP and len(body) >= 20:
        return _parse_ip4(raw, body)
    if ether_type == ETH_P_IPV6 and len(body) >= 40:
        return _parse_ip6(raw, body)
    return Packet(raw=raw, ether_type=ether_type, payload=body)


def _parse_ip4(raw: bytes, body: bytes) -> Packet:
    header_bytes = max((body[0] & 0xF) * 4, 20)
    total = int.from_bytes(body[2:4], "big")
    # 0 is a packet of more than 64 KiB that was not yet cut; short frames are padded.
    rest = body[header_bytes : total or len(body)]
    offset = int.from_bytes(body[6:8], "big") & 0x1FFF
    return _parse_transport(
        raw,
        ETH_P_IP,
        (
            socket.inet_ntop(socket.AF_INET, body[12:16]),
            socket.inet_ntop(socket.AF_INET, body[16:20]),
        ),
        protocol=body[9],
        rest=rest,
        is_later_fragment=offset != 0,
    )


def _parse_ip6(raw: bytes, body: bytes) -> Packet:
    length = int.from_bytes(body[4:6], "big")
    protocol, rest = body[6], body[40 : 40 + length if length else len(body)]
    is_later_fragment = False
    while protocol in _EXTENSIONS and len(rest) >= 8:
        size = 8 if protocol == _FRAGMENT else (rest[1] + 1) * 8
        if protocol == _FRAGMENT:
            is_later_fragment = int.from_bytes(rest[2:4], "big") >> 3 != 0
        protocol, rest = rest[0], rest[size:]
    return _parse_transport(
        raw,
        ETH_P_IPV6,
        (str(ipaddress.IPv6Address(body[8:24])), str(ipaddress.IPv6Address(body[24:40]))),
        protocol=protocol,
        rest=rest,
        is_later_fragment=is_later_fragment,
    )


def _parse_transport(
    raw: bytes,
    ether_type: int,
    addresses: tuple[str, str],
    *,
    protocol: int,
    rest: bytes,
    is_later_fragment: bool,
) -> Packet:
    ports, sequence, flags, icmp_type, payload = (0, 0), 0, 0, None, rest
    if is_later_fragment:
        pass
    elif protocol == socket.IPPROTO_TCP and len(rest) >= 20:
        ports, sequence = struct.unpack_from("!HH", rest), int.from_bytes(rest[4:8], "big")
        flags = rest[13]
        payload = rest[(rest[12] >> 4) * 4 :]
    elif protocol in (socket.IPPROTO_UDP, _UDPLITE) and len(rest) >= 8:
        ports, payload = struct.unpack_from("!HH", rest), rest[8:]
    elif protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) and len(rest) >= 8:
        icmp_type, payload = rest[0], rest[8:]
    return Packet(
        raw=raw,
        ether_type=ether_type,
        source=addresses[0],
        destination=addresses[1],
        protocol=protocol,
        source_port=ports[0],
        destination_port=ports[1],
        sequence=sequence,
        tcp_flags=flags,
        icmp_type=icmp_type,
        payload=payload,
    )
