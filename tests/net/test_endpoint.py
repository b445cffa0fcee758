# SPDX-License-Identifier: Apache-2.0
"""Addresses that stand for other addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.net.endpoint import canonical, destination, from_key_bytes, key_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("64:ff9b::a00:1", "10.0.0.1"),
        ("2002:a00:1::", "10.0.0.1"),
        ("2002:a00:1:ffff::5", "10.0.0.1"),
        ("2001:db8::a00:1", "2001:db8::a00:1"),
        ("64:ff9b:1::a00:1", "64:ff9b:1::a00:1"),
        ("::a00:1", "::a00:1"),
        ("::fffe:a00:1", "::fffe:a00:1"),
        ("2003:a00:1::", "2003:a00:1::"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("64:ff9b::7f00:1", "0.0.0.0"),  # not this host: it leaves for a gateway
        ("2002:7f01:203::9", "0.0.0.0"),
    ],
)
def test_canonical(text, expected):
    """Mapped, NAT64 and 6to4 addresses are the IPv4 address inside; no others are."""
    assert canonical(ip_address(text)) == ip_address(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("::ffff:0.0.0.0", "127.0.0.1"),
        ("64:ff9b::", "0.0.0.0"),
        ("2002::9", "0.0.0.0"),
        ("0.0.0.1", "0.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_destination(text, expected):
    """The unspecified address is loopback, but for one that leaves for a gateway."""
    assert destination(ip_address(text)) == ip_address(expected)


@given(
    st.one_of(
        st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
    )
)
def test_key_bytes(address):
    """The 16 bytes of a map key come back as the same canonical address."""
    raw = key_bytes(canonical(address))

    assert len(raw) == 16
    assert from_key_bytes(raw) == canonical(address)


def test_key_bytes_of_v4():
    """IPv4 is stored as ::ffff:a.b.c.d."""
    assert key_bytes(ip_address("10.0.0.1")) == ip_address("::ffff:10.0.0.1").packed
