# SPDX-License-Identifier: Apache-2.0
"""Destinations as people write them: ``10.20.0.7:8000``, ``udp/8.8.8.8:53``, ``icmp/1.2.3.4``.

``ADDRESS:PORT`` means TCP; an IPv6 address with a port stands in brackets. Protocols without ports
are ``icmp/ADDRESS`` and ``ip/PROTOCOL/ADDRESS``. Used by ``tests`` rows and ``policy explain``.
"""

from __future__ import annotations

import ipaddress
import re

from agentwall.net.endpoint import Endpoint, IPAddress, L4Protocol, canonical
from agentwall.net.ports import protocol_name

_WITH_PORT = re.compile(
    r"(?:(?P<protocol>tcp|udp)/)?(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^]:[]*)):(?P<port>[0-9]{1,9})",
    re.ASCII,
)
_WITHOUT_PORT = re.compile(r"(?:icmp|ip/(?P<number>[0-9]{1,9}))/\[?(?P<address>[^][]*)\]?")


def parse_destination(text: str) -> Endpoint:
    """Parse a destination; its address comes back canonical.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    if match := _WITH_PORT.fullmatch(text):
        address = _address(match["v4"] if match["v6"] is None else match["v6"], text)
        port = _number(match["port"], 1, 65535)
        protocol = L4Protocol.UDP if match["protocol"] == "udp" else L4Protocol.TCP
        return Endpoint(address, port, protocol)
    if match := _WITHOUT_PORT.fullmatch(text):
        address = _address(match["address"], text)
        if match["number"] is None:
            echo = L4Protocol.ICMP if address.version == 4 else L4Protocol.ICMPV6
            return Endpoint(address, 0, echo)
        number = _number(match["number"], 0, 255)
        if number in (L4Protocol.TCP, L4Protocol.UDP):
            raise ValueError(f"expected {protocol_name(number)}/ADDRESS:PORT, got {text!r}")
        return Endpoint(address, 0, number)
    raise ValueError(
        "expected ADDRESS:PORT, udp/ADDRESS:PORT, [IPV6]:PORT, icmp/ADDRESS or "
        f"ip/PROTOCOL/ADDRESS, got {text!r}"
    )


def _address(text: str, whole: str) -> IPAddress:
    if "%" in text:
        raise ValueError(f"expected an address without a scope, got {whole!r}")
    try:
        return canonical(ipaddress.ip_address(text))
    except ValueError as err:
        raise ValueError(f"expected an IP address, got {text!r} in {whole!r}") from err


def _number(text: str, low: int, high: int) -> int:
    value = int(text)
    if not low <= value <= high:
        raise ValueError(f"expected {low}-{high}, got {value}")
    return value


def describe_destination(remote: Endpoint) -> str:
    """Return *remote* as :func:`parse_destination` reads it, the protocol always named."""
    address = str(remote.address)
    if remote.protocol in (L4Protocol.TCP, L4Protocol.UDP):
        host = f"[{address}]" if remote.address.version == 6 else address
        return f"{protocol_name(remote.protocol)}/{host}:{remote.port}"
    if remote.protocol in (L4Protocol.ICMP, L4Protocol.ICMPV6):
        return f"icmp/{address}"
    return f"ip/{remote.protocol}/{address}"
