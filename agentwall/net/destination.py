# SPDX-License-Identifier: Apache-2.0
"""Destinations as people write them: ``10.20.0.7:8000``, ``udp/8.8.8.8:53``, ``icmp/1.2.3.4``.

``ADDRESS:PORT`` means TCP; an IPv6 address with a port stands in brackets. Protocols without ports
are ``icmp/ADDRESS`` and ``ip/PROTOCOL/ADDRESS``. A target has a name in the address's place, or an
address: ``hub.example.com:443``. Used by ``tests`` rows and ``policy explain``.
"""

from __future__ import annotations

import ipaddress
import re

from agentwall.net.domain import parse_name
from agentwall.net.endpoint import Endpoint, IPAddress, L4Protocol, NamedEndpoint, canonical
from agentwall.net.ports import protocol_name

_WITH_PORT = re.compile(
    r"(?:(?P<protocol>tcp|udp)/)?(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^]:[]*)):(?P<port>[0-9]{1,9})",
    re.ASCII,
)
_WITHOUT_PORT = re.compile(r"(?:icmp|ip/(?P<number>[0-9]{1,9}))/\[?(?P<address>[^][]*)\]?")
# What only an address can be: no name ends in a number.
_ADDRESS = re.compile(r"[0-9.]*|.*[:%].*", re.ASCII | re.DOTALL)
_ADDRESS_FORMS = "ADDRESS:PORT, udp/ADDRESS:PORT, [IPV6]:PORT, icmp/ADDRESS or ip/PROTOCOL/ADDRESS"


def parse_destination(text: str) -> Endpoint:
    """Parse a destination; its address comes back canonical.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    parts = _split(text)
    if parts is None:
        raise ValueError(f"expected {_ADDRESS_FORMS}, got {text!r}")
    return _endpoint(*parts, text)


def parse_target(text: str) -> Endpoint | NamedEndpoint:
    """Parse a destination whose address may be a name; that comes back in its one form.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    parts = _split(text)
    if parts is None:
        raise ValueError(f"expected NAME:PORT, udp/NAME:PORT, {_ADDRESS_FORMS}, got {text!r}")
    protocol, host, port = parts
    if "[" in text or _ADDRESS.fullmatch(host):
        return _endpoint(protocol, host, port, text)
    name = parse_name(host)
    return NamedEndpoint(name, port, L4Protocol.ICMP if protocol is None else protocol)


def _split(text: str) -> tuple[int | None, str, int] | None:
    """Return protocol, host and port; no protocol for ``icmp``, which is two of them."""
    if match := _WITH_PORT.fullmatch(text):
        host = match["v4"] if match["v6"] is None else match["v6"]
        protocol = L4Protocol.UDP if match["protocol"] == "udp" else L4Protocol.TCP
        return protocol, host, _number(match["port"], 1, 65535)
    match = _WITHOUT_PORT.fullmatch(text)
    if match is None:
        return None
    if match["number"] is None:
        return None, match["address"], 0
    number = _number(match["number"], 0, 255)
    if number in (L4Protocol.TCP, L4Protocol.UDP):
        raise ValueError(f"expected {protocol_name(number)}/ADDRESS:PORT, got {text!r}")
    return number, match["address"], 0


def _endpoint(protocol: int | None, host: str, port: int, whole: str) -> Endpoint:
    address = _address(host, whole)
    if protocol is None:
        protocol = L4Protocol.ICMP if address.version == 4 else L4Protocol.ICMPV6
    return Endpoint(address, port, protocol)


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


def describe_destination(remote: Endpoint | NamedEndpoint) -> str:
    """Return *remote* as :func:`parse_target` reads it, the protocol always named."""
    if isinstance(remote, NamedEndpoint):
        host = within = remote.name
    else:
        host = str(remote.address)
        within = f"[{host}]" if remote.address.version == 6 else host
    if remote.protocol in (L4Protocol.TCP, L4Protocol.UDP):
        return f"{protocol_name(remote.protocol)}/{within}:{remote.port}"
    if remote.protocol in (L4Protocol.ICMP, L4Protocol.ICMPV6):
        return f"icmp/{host}"
    return f"ip/{remote.protocol}/{host}"
