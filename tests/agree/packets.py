# SPDX-License-Identifier: Apache-2.0
"""Packets as cgroup_skb programs see them, behind the Ethernet header prog_test_run wants."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from agentwall.net.endpoint import Endpoint

LOCAL_V4 = IPv4Address("192.0.2.1")
LOCAL_V6 = IPv6Address("2001:db8:ffff::1")


def packet_to(remote: Endpoint, *, local_port: int = 40000, said: bytes = b"data") -> bytes:
    """Return a packet from the sandbox to *remote*, which says something over TCP and UDP."""
    return _packet(remote, local_port, said, outgoing=True)


def packet_from(remote: Endpoint, *, local_port: int) -> bytes:
    """Return a packet from *remote* to *local_port* of the sandbox."""
    return _packet(remote, local_port, b"data", outgoing=False)


def _packet(remote: Endpoint, local_port: int, said: bytes, *, outgoing: bool) -> bytes:
    near, far = (local_port, remote.port) if outgoing else (remote.port, local_port)
    body = _transport(remote.protocol, near, far, said)
    if isinstance(remote.address, IPv4Address):
        ends = (LOCAL_V4.packed, remote.address.packed)
        size, protocol = 20 + len(body), remote.protocol
        header = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0x4000, 64, protocol, 0)
        kind = 0x0800
    else:
        ends = (LOCAL_V6.packed, remote.address.packed)
        header = struct.pack("!IHBB", 6 << 28, len(body), remote.protocol, 64)
        kind = 0x86DD
    local, other = ends
    addresses = local + other if outgoing else other + local
    return bytes(12) + struct.pack("!H", kind) + header + addresses + body


def _transport(protocol: int, near: int, far: int, said: bytes) -> bytes:
    if protocol == 6:
        return struct.pack("!HHIIBBHHH", near, far, 1, 0, 5 << 4, 0x02, 1000, 0, 0) + said
    if protocol == 17:
        return struct.pack("!HHHH", near, far, 8 + len(said), 0) + said
    if protocol in (1, 58):
        return struct.pack("!BBHHH", 8 if protocol == 1 else 128, 0, 0, 1, 1) + b"data"
    return b"opaque payload"
