# SPDX-License-Identifier: Apache-2.0
"""Reserved blocks: what a wide allow rule does not open.

An allow opens addresses of a block only if its own prefix lies inside the innermost block that
holds them: ``any`` does not open 10.0.0.0/8, and 10.0.0.0/8 does; neither opens a metadata service.
"""

from __future__ import annotations

from ipaddress import ip_network

from agentwall.net.endpoint import IPAddress, IPNetwork

METADATA_SERVICES: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google Cloud, and most others
        "169.254.170.2",  # AWS ECS task credentials
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure wire server
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS over IPv6
        "fd20:ce::254",  # Google Cloud over IPv6
    )
)

RESERVED_BLOCKS: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        # Local NAT64 (RFC 8215): where the IPv4 address stands in it is each site's choice
        # (RFC 6052 section 2.2), so it cannot be judged as that IPv4 and is closed instead.
        "64:ff9b:1::/48",
        "2001::/32",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    )
)

ALL_BLOCKS: tuple[IPNetwork, ...] = RESERVED_BLOCKS + METADATA_SERVICES


def innermost_block(address: IPAddress) -> IPNetwork | None:
    """Return the smallest reserved block that holds the canonical *address*, or None."""
    holding = [b for b in ALL_BLOCKS if b.version == address.version and address in b]
    return max(holding, key=lambda block: block.prefixlen, default=None)
