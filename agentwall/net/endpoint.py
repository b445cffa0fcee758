# SPDX-License-Identifier: Apache-2.0
"""Endpoints: the (address, port, protocol) a flow is addressed to."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

NAT64_WELL_KNOWN = IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1: the IPv4 address is the last 32 bits."""
SIX_TO_FOUR = IPv6Network("2002::/16")
"""RFC 3056 section 2: the IPv4 address is bits 16 to 47."""
V4_MAPPED = IPv6Network("::ffff:0:0/96")


class L4Protocol(enum.IntEnum):
    """Names for the protocol numbers rules mention (IANA protocol numbers)."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A remote or local endpoint."""

    address: IPAddress
    """Canonical; see :func:`canonical`."""
    port: int
    """Host byte order, 0-65535; 0 for protocols without ports."""
    protocol: int
    """IANA protocol number. Not only :class:`L4Protocol`: a sandbox may use any other."""


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """A remote endpoint by name, as people write it: ``hub.example.com:443``."""

    name: str
    """In the one form of :mod:`agentwall.net.domain`."""
    port: int
    """As in :class:`Endpoint`."""
    protocol: int


def canonical(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 *address* stands for, else *address* itself.

    IPv4-mapped (RFC 4291 section 2.5.5.2), NAT64 (RFC 6052, well-known prefix only) and 6to4
    (RFC 3056) addresses reach the IPv4 host inside them, so a rule or a reserved block on that
    host must judge them. A NAT64 or 6to4 packet leaves for a gateway, so 127.0.0.0/8 inside it is
    not this host: that becomes 0.0.0.0, which no packet can reach. ``bpf/address.bpf.h`` does the
    same in the kernel.
    """
    if isinstance(address, IPv4Address):
        return address
    if address in V4_MAPPED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in NAT64_WELL_KNOWN:
        return _behind_gateway(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return _behind_gateway(int(address) >> 80 & 0xFFFFFFFF)
    return address


def _behind_gateway(number: int) -> IPv4Address:
    address = IPv4Address(number)
    return IPv4Address(0) if address.is_loopback else address


def destination(address: IPAddress) -> IPAddress:
    """Return where a connect() to *address* goes: canonical, and loopback for 0.0.0.0 and ::.

    Linux takes the unspecified address as "this host" in connect() and sendto(). Only where it is a
    destination: as a source it is anyone's.
    """
    if address == IPv6Address(0):
        return IPv6Address(1)
    if address in (IPv4Address(0), IPv6Address("::ffff:0.0.0.0")):
        return IPv4Address("127.0.0.1")
    return canonical(address)


def key_bytes(address: IPAddress) -> bytes:
    """Return the 16 bytes that stand for *address* in maps and events, network byte order."""
    if isinstance(address, IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def from_key_bytes(raw: bytes) -> IPAddress:
    """Return the address that 16 *raw* bytes of a map or an event stand for."""
    if raw[:12] == bytes(10) + b"\xff\xff":
        return IPv4Address(raw[12:])
    return IPv6Address(raw)
