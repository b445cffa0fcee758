# SPDX-License-Identifier: Apache-2.0
"""Prefixes as policies write them: ``10.20.0.0/24``, ``203.0.113.7``, ``2001:db8::/32``.

``10.20.0.1/24`` is refused (host bits), and so is ``::ffff:10.20.0.0/120``: an IPv6 prefix whose
addresses stand for IPv4 hosts would never match, since they are judged as those IPv4 hosts.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network

from agentwall.net.endpoint import NAT64_WELL_KNOWN, SIX_TO_FOUR, V4_MAPPED, IPNetwork

EVERYWHERE: tuple[IPNetwork, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
"""``any``."""

# ipaddress also takes netmasks, hostmasks and scope ids, which policies do not have.
_PREFIX = re.compile(r"[0-9A-Fa-f.:]{2,45}(?:/[0-9]{1,3})?", re.ASCII)


def parse_prefix(text: str) -> IPNetwork:
    """Parse an address or a prefix without host bits.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"expected an address or a prefix, got {text!r}")
    try:
        network: IPNetwork = IPv6Network(text) if ":" in text else IPv4Network(text)
    except ValueError as err:
        raise ValueError(_explain(text)) from err
    if isinstance(network, IPv6Network) and (inside := ipv4_inside(network)):
        raise ValueError(f"expected the IPv4 prefix {inside} it stands for, got {text!r}")
    return network


def _explain(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"expected an address or a prefix, got {text!r}"
    return f"expected a prefix without host bits ({network}), got {text!r}"


def ipv4_inside(network: IPv6Network) -> IPv4Network | None:
    """Return the IPv4 prefix that *network* stands for, or None if it stands for none.

    The blocks and their sources are those of :func:`agentwall.net.endpoint.canonical`.
    """
    address, length = int(network.network_address), network.prefixlen
    if network.subnet_of(V4_MAPPED) or network.subnet_of(NAT64_WELL_KNOWN):
        return IPv4Network((address & 0xFFFFFFFF, length - 96))
    if network.subnet_of(SIX_TO_FOUR):
        # Beyond bit 48 the IPv4 address is whole and what follows is the site's own.
        return IPv4Network((address >> 80 & 0xFFFFFFFF, min(length - 16, 32)))
    return None
