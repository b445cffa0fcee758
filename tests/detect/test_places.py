# SPDX-License-Identifier: Apache-2.0
"""Where an address lies."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.places import is_reserved, shown
from agentwall.net.endpoint import Endpoint, canonical
from agentwall.net.reserved import ALL_BLOCKS, innermost_block

EDGES = [
    type(block.network_address)(number)
    for block in ALL_BLOCKS
    for number in (
        int(block.network_address) - 1,
        int(block.network_address),
        int(block.broadcast_address),
        int(block.broadcast_address) + 1,
    )
    if 0 <= number < 2**block.max_prefixlen
]


@given(
    st.one_of(
        st.sampled_from(EDGES),
        st.integers(0, 2**32 - 1).map(IPv4Address),
        st.integers(0, 2**128 - 1).map(IPv6Address),
        st.integers(0, 2**32 - 1).map(lambda n: IPv6Address(0xFFFF << 32 | n)),
    )
)
def test_is_reserved(address):
    """It is what the list of blocks says of the address that is reached."""
    assert is_reserved(address) == (innermost_block(canonical(address)) is not None)


@pytest.mark.parametrize(
    ("address", "port", "text"),
    [
        ("10.0.0.1", 22, "10.0.0.1:22"),
        ("fd00::1", 22, "[fd00::1]:22"),
        ("10.0.0.1", 0, "10.0.0.1"),
        ("fd00::1", 0, "fd00::1"),
    ],
)
def test_shown(address, port, text):
    """Endpoints are written as people write them."""
    assert shown(Endpoint(ip_address(address), port, 6)) == text
