# SPDX-License-Identifier: Apache-2.0
"""Prefixes: what parses, and what is refused with what should stand there instead."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.net.endpoint import NAT64_WELL_KNOWN, SIX_TO_FOUR, V4_MAPPED, canonical
from agentwall.net.prefix import ipv4_inside, parse_prefix


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("10.20.0.0/24", "10.20.0.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1/128"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
        ("::/64", "::/64"),  # wider than the IPv4-mapped block, not inside it
        ("64:ff9b:1::/48", "64:ff9b:1::/48"),  # local NAT64 hides no IPv4 address that is known
    ],
)
def test_parse_prefix(text, network):
    """An address is a prefix of full length."""
    assert parse_prefix(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("10.0.0.1/8", "expected a prefix without host bits (10.0.0.0/8), got '10.0.0.1/8'"),
        ("2001:db8::1/32", "expected a prefix without host bits (2001:db8::/32)"),
        ("10.0.0.0/33", "expected an address or a prefix, got '10.0.0.0/33'"),
        ("10.0.0.0/255.0.0.0", "expected an address or a prefix"),
        ("10.0.0.0/0.255.255.255", "expected an address or a prefix"),
        ("010.0.0.1", "expected an address or a prefix"),
        ("10.0.0", "expected an address or a prefix"),
        ("fe80::1%eth0", "expected an address or a prefix"),
        (" 10.0.0.1", "expected an address or a prefix"),
        ("example.com", "expected an address or a prefix"),
        ("", "expected an address or a prefix"),
        ("\N{FULLWIDTH DIGIT ONE}0.0.0.1", "expected an address or a prefix"),
        ("::ffff:10.0.0.0/104", "expected the IPv4 prefix 10.0.0.0/8 it stands for"),
        ("::ffff:0:0/96", "expected the IPv4 prefix 0.0.0.0/0 it stands for"),
        ("64:ff9b::a00:1", "expected the IPv4 prefix 10.0.0.1/32 it stands for"),
        ("2002:a00::/24", "expected the IPv4 prefix 10.0.0.0/8 it stands for"),
        ("2002:a00:1:5::/64", "expected the IPv4 prefix 10.0.0.1/32 it stands for"),
    ],
)
def test_refused_prefix(text, problem):
    """What is no prefix, or would never match, is refused with the reason."""
    with pytest.raises(ValueError, match="expected") as caught:
        parse_prefix(text)

    assert str(caught.value).startswith(problem)


BLOCKS = (V4_MAPPED, NAT64_WELL_KNOWN, SIX_TO_FOUR)


@given(st.sampled_from(BLOCKS), st.integers(0, 128), st.integers(0, 2**128 - 1))
def test_ipv4_inside_agrees_with_canonical(block, length, bits):
    """Each address of a prefix is judged as one of the IPv4 prefix it stands for, or as none."""
    length = max(length, block.prefixlen)
    address = int(block.network_address) | (bits & int(block.hostmask))
    network = IPv6Network((address, length), strict=False)
    inside = ipv4_inside(network)

    shift = 80 if block == SIX_TO_FOUR else 0
    embedded = IPv4Address(address >> shift & 0xFFFFFFFF)
    judged = canonical(ip_address(address))
    assert inside is not None
    assert embedded in inside
    if embedded.is_loopback and block != V4_MAPPED:
        assert judged == IPv4Address(0)
    else:
        assert judged == embedded


def test_ipv4_inside_of_others():
    """Prefixes that merely touch the translated blocks stand for no IPv4 prefix."""
    assert ipv4_inside(IPv6Network("2000::/3")) is None
    assert ipv4_inside(IPv6Network("::/95")) is None
    assert ipv4_inside(IPv6Network("::fffe:0:0/96")) is None
    assert ipv4_inside(IPv6Network("2002:a00::/24")) == IPv4Network("10.0.0.0/8")
