# SPDX-License-Identifier: Apache-2.0
"""Port entries: ``443``, ``8000-8010``, ``udp/53``, ``tcp/*``, ``icmp``, ``ip/132``, ``any``.

A specification becomes ranges over one number line, ``protocol << 16 | port``, on which the
evaluator, the compiler and the BPF programs all work. Protocols without ports sit at port 0 and
their range covers all 65 536, so one comparison serves every protocol.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentwall.net.endpoint import L4Protocol

LAST_SELECTOR = 0xFF_FFFF


def selector(protocol: int, port: int) -> int:
    """Return the place of (*protocol*, *port*) on the number line."""
    return protocol << 16 | port


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """An inclusive range of selectors."""

    first: int
    last: int

    def holds(self, protocol: int, port: int) -> bool:
        """Say whether (*protocol*, *port*) lies in the range."""
        return self.first <= selector(protocol, port) <= self.last


EVERYTHING = (PortRange(0, LAST_SELECTOR),)
"""What a deny rule without ports covers."""


def whole_protocol(protocol: int) -> PortRange:
    """Return the range of every port of *protocol*."""
    return PortRange(selector(protocol, 0), selector(protocol, 0xFFFF))


ICMP = (whole_protocol(L4Protocol.ICMP), whole_protocol(L4Protocol.ICMPV6))
ANY = (*ICMP, whole_protocol(L4Protocol.TCP), whole_protocol(L4Protocol.UDP))
"""``any`` in an allow or inbound rule: TCP, UDP and echo. Others are named (``ip/132``)."""

_PORTS = re.compile(r"(?:(tcp|udp)/)?(?:(\*)|(\d{1,9})(?:-(\d{1,9}))?)", re.ASCII)
_PROTOCOL = re.compile(r"ip/(\d{1,9})", re.ASCII)


def parse_ports(text: str) -> tuple[PortRange, ...]:
    """Parse one entry of a ``ports`` list.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    if text == "any":
        return ANY
    if text == "icmp":
        return ICMP
    if match := _PROTOCOL.fullmatch(text):
        return (whole_protocol(_number(match[1], 0, 255)),)
    match = _PORTS.fullmatch(text)
    if not match or (match[2] and not match[1]):
        raise ValueError(
            "expected a port, a range, tcp/PORTS, udp/PORTS, icmp, ip/PROTOCOL or any, "
            f"got {text!r}"
        )
    protocol = L4Protocol.UDP if match[1] == "udp" else L4Protocol.TCP
    if match[2]:
        return (whole_protocol(protocol),)
    first = _number(match[3], 1, 65535)
    last = _number(match[4], 1, 65535) if match[4] else first
    if last < first:
        raise ValueError(f"expected a range from low to high, got {text!r}")
    return (PortRange(selector(protocol, first), selector(protocol, last)),)


def _number(text: str, low: int, high: int) -> int:
    value = int(text)
    if not low <= value <= high:
        raise ValueError(f"expected {low}-{high}, got {value}")
    return value


def describe(ranges: tuple[PortRange, ...]) -> str:
    """Return *ranges* in the policy language, for messages."""
    if ranges == EVERYTHING:
        return "everything"
    if ranges == ANY:
        return "any"
    return ", ".join(_describe_range(r) for r in ranges if r != ICMP[1] or ICMP[0] not in ranges)


def _describe_range(r: PortRange) -> str:
    protocol, first, last = r.first >> 16, r.first & 0xFFFF, r.last & 0xFFFF
    if protocol in (L4Protocol.TCP, L4Protocol.UDP):
        name = "tcp" if protocol == L4Protocol.TCP else "udp"
        if (first, last) == (0, 0xFFFF):
            return f"{name}/*"
        return f"{name}/{first}" if first == last else f"{name}/{first}-{last}"
    return "icmp" if r in ICMP else f"ip/{protocol}"


def protocol_name(protocol: int) -> str:
    """Return ``tcp``, ``udp``, ``icmp``, ``icmp6`` or ``ip/N``, as events print a protocol."""
    names = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
    return names.get(protocol, f"ip/{protocol}")
