# SPDX-License-Identifier: Apache-2.0
"""Reserved blocks and their nesting."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from agentwall.net.endpoint import canonical
from agentwall.net.reserved import ALL_BLOCKS, METADATA_SERVICES, innermost_block


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("10.255.255.255", "10.0.0.0/8"),
        ("11.0.0.0", None),
        ("9.255.255.255", None),
        ("100.64.0.1", "100.64.0.0/10"),
        ("100.100.100.200", "100.100.100.200/32"),
        ("100.100.100.201", "100.64.0.0/10"),
        ("169.254.169.254", "169.254.169.254/32"),
        ("169.254.169.253", "169.254.0.0/16"),
        ("192.0.0.192", "192.0.0.192/32"),
        ("168.63.129.16", "168.63.129.16/32"),
        ("168.63.129.17", None),
        ("198.51.100.1", None),  # documentation ranges are ordinary addresses
        ("203.0.113.1", None),
        ("2001:db8::1", None),
        ("2001::1", "2001::/32"),
        ("::1", "::1/128"),
        ("fd00:ec2::254", "fd00:ec2::254/128"),
        ("fd00:ec2::255", "fc00::/7"),
        ("64:ff9b:1::1", "64:ff9b:1::/48"),
        ("ff02::1", "ff00::/8"),
    ],
)
def test_innermost_block(address, block):
    """The smallest block that holds an address counts, at its edges too."""
    assert innermost_block(ip_address(address)) == (block and ip_network(block))


def test_metadata_services_are_blocks():
    """Each metadata service is a block that nothing but itself is inside."""
    for service in METADATA_SERVICES:
        assert innermost_block(service.network_address) == service


def test_blocks_are_canonical():
    """No block hides behind an address that is judged as another one."""
    for block in ALL_BLOCKS:
        assert canonical(block.network_address) == block.network_address
