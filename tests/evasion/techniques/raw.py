# SPDX-License-Identifier: Apache-2.0
"""Ways out without a TCP or UDP socket: ping sockets and raw IP. All but ping need NET_RAW."""

from __future__ import annotations

import socket
import struct

from techniques.plan import Plan

IPPROTO_RAW = 255
MORE_FRAGMENTS = 0x2000


def ping(plan: Plan, to: str, late: bool = False, connected: bool = False) -> None:
    """Carry the payload in an echo request of an unprivileged ping socket."""
    is_v4 = plan.place(to).family == socket.AF_INET
    protocol = socket.IPPROTO_ICMP if is_v4 else socket.IPPROTO_ICMPV6
    with plan.open(to, socket.SOCK_DGRAM, protocol) as sock:
        _wait(plan, late)
        if connected:
            sock.connect(plan.place(to).address)
            sock.send(_echo(is_v4, plan.marker))
        else:
            sock.sendto(_echo(is_v4, plan.marker), plan.place(to).address)


def icmp(plan: Plan, to: str, late: bool = False) -> None:
    """Carry the payload in an echo request of a raw ICMP socket."""
    with plan.open(to, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        _wait(plan, late)
        sock.sendto(_echo(True, plan.marker), (plan.place(to).host, 0))


def icmp6(plan: Plan, to: str, late: bool = False) -> None:
    """Carry the payload in an echo request of a raw ICMPv6 socket."""
    with plan.open(to, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        _wait(plan, late)
        sock.sendto(_echo(False, plan.marker), (plan.place(to).host, 0))


def udp(plan: Plan, to: str, late: bool = False, connected: bool = False) -> None:
    """Write the UDP header by hand on a raw socket."""
    with plan.open(to, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        _wait(plan, late)
        datagram = _udp(plan.place(to).port, plan.marker)
        if connected:
            sock.connect((plan.place(to).host, 0))
            sock.send(datagram)
        else:
            sock.sendto(datagram, (plan.place(to).host, 0))


def tcp(plan: Plan, to: str, late: bool = False) -> None:
    """Write a TCP segment with data by hand on a raw socket."""
    with plan.open(to, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        _wait(plan, late)
        header = struct.pack("!HHIIBBHHH", 4444, plan.place(to).port, 1, 1, 0x50, 0x18, 512, 0, 0)
        sock.sendto(header + plan.marker, (plan.place(to).host, 0))


def header_included(plan: Plan, claim: str, to: str, late: bool = False) -> None:
    """Name a permitted address in sendto and write another into the IP header."""
    _send_ip(plan, claim, to, late, fragment=0)


def fragment(plan: Plan, to: str, late: bool = False, offset: int = 0) -> None:
    """Send a forged fragment: a later one (*offset* in 8 bytes) carries no ports at all."""
    _send_ip(plan, to, to, late, fragment=offset if offset else MORE_FRAGMENTS)


def unknown_protocol(plan: Plan, to: str, protocol: int, late: bool = False) -> None:
    """Send an IP protocol that has no ports and that no rule names."""
    with plan.open(to, socket.SOCK_RAW, protocol) as sock:
        _wait(plan, late)
        sock.sendto(plan.marker, (plan.place(to).host, 0))


def _send_ip(plan: Plan, claim: str, to: str, late: bool, fragment: int) -> None:
    with plan.open(claim, socket.SOCK_RAW, IPPROTO_RAW) as sock:
        _wait(plan, late)
        body = _udp(plan.place(to).port, plan.marker)
        remote = socket.inet_aton(plan.place(to).host)
        header = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 77, fragment, 64, 17, 0, bytes(4), remote
        )
        sock.sendto(header + body, (plan.place(claim).host, 0))


def _wait(plan: Plan, late: bool) -> None:
    if late:
        plan.pause()


def _udp(port: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", 4444, port, 8 + len(data), 0) + data


def _echo(is_v4: bool, data: bytes) -> bytes:
    message = struct.pack("!BBHHH", 8 if is_v4 else 128, 0, 0, 7, 1) + data
    return message[:2] + struct.pack("!H", _checksum(message)) + message[4:]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
