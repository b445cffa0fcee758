# SPDX-License-Identifier: Apache-2.0
"""Destinations as people write them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.net.destination import describe_destination, parse_destination, parse_target
from agentwall.net.endpoint import Endpoint, NamedEndpoint, canonical


@pytest.mark.parametrize(
    ("text", "address", "port", "protocol"),
    [
        ("10.20.0.7:8000", "10.20.0.7", 8000, 6),
        ("tcp/10.20.0.7:1", "10.20.0.7", 1, 6),
        ("udp/8.8.8.8:53", "8.8.8.8", 53, 17),
        ("[2001:db8::1]:443", "2001:db8::1", 443, 6),
        ("udp/[2001:db8::1]:443", "2001:db8::1", 443, 17),
        ("icmp/192.0.2.1", "192.0.2.1", 0, 1),
        ("icmp/2001:db8::1", "2001:db8::1", 0, 58),
        ("icmp/[2001:db8::1]", "2001:db8::1", 0, 58),
        ("icmp/::ffff:192.0.2.1", "192.0.2.1", 0, 1),
        ("ip/132/192.0.2.1", "192.0.2.1", 0, 132),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1", 80, 6),
        ("[64:ff9b::a00:1]:80", "10.0.0.1", 80, 6),
        ("0.0.0.0:80", "0.0.0.0", 80, 6),
    ],
)
def test_parse_destination(text, address, port, protocol):
    """The protocol is TCP unless named, and the address comes back canonical."""
    assert parse_destination(text) == Endpoint(ip_address(address), port, protocol)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:80 ",
        "2001:db8::1:443",
        "[10.0.0.1:80",
        "[]:80",
        "sctp/10.0.0.1:80",
        "icmp/",
        "icmp/10.0.0.1:80",
        "icmp/fe80::1%eth0",
        "ip/256/10.0.0.1",
        "ip/6/10.0.0.1",
        "ip/17/10.0.0.1",
        "example.com:443",
        "[fe80::1%lo]:80",
        "10.0.0.1:8\N{ARABIC-INDIC DIGIT ZERO}",
    ],
)
def test_refused_destination(text):
    """What is ambiguous or no destination is refused with what was expected."""
    with pytest.raises(ValueError, match=r"^expected .*, got"):
        parse_destination(text)


ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
).map(canonical)


@given(ADDRESSES, st.integers(1, 65535), st.integers(0, 255))
def test_round_trip(address, port, protocol):
    """What describe_destination writes, parse_destination reads."""
    if protocol in (1, 58):
        protocol = 1 if address.version == 4 else 58
    remote = Endpoint(address, port if protocol in (6, 17) else 0, protocol)

    assert parse_destination(describe_destination(remote)) == remote
    assert parse_target(describe_destination(remote)) == remote


@given(st.text(max_size=40))
def test_any_text(text):
    """Any text is a destination or a ValueError, nothing else."""
    try:
        found = parse_destination(text)
    except ValueError:
        return

    assert 0 <= found.port <= 65535


@pytest.mark.parametrize(
    ("text", "name", "port", "protocol"),
    [
        ("hub.example.com:443", "hub.example.com", 443, 6),
        ("tcp/hub.example.com:22", "hub.example.com", 22, 6),
        ("udp/hub.example.com:53", "hub.example.com", 53, 17),
        ("Hub.Example.COM.:443", "hub.example.com", 443, 6),
        (
            "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example:443",
            "xn--bcher-kva.example",
            443,
            6,
        ),
        ("db:5432", "db", 5432, 6),
        ("10.0.0.1.example:80", "10.0.0.1.example", 80, 6),
        ("icmp/hub.example.com", "hub.example.com", 0, 1),
        ("ip/132/hub.example.com", "hub.example.com", 0, 132),
    ],
)
def test_parse_named_target(text, name, port, protocol):
    """A name stands where an address would, and comes back in its one form."""
    found = parse_target(text)

    assert found == NamedEndpoint(name, port, protocol)
    assert parse_target(describe_destination(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub.example.com",
        "hub.example.com:",
        "hub.example.com:0",
        "hub.example.com:65536",
        "hub.example.com:443 ",
        "[hub.example.com]:443",
        "icmp/[hub.example.com]",
        "https://hub.example.com:443",
        "*.example.com:443",
        "hub..example.com:443",
        "-hub.example.com:443",
        "hub.example.com\0:443",
        "10.0.0.256:80",
        "10.0.0:80",
        "0x7f000001:80",
        "ip/6/hub.example.com",
        "fe80::1:80",
    ],
)
def test_refused_target(text):
    """What is neither a name nor an address, with a port, is refused with what was expected."""
    with pytest.raises(ValueError, match=r"^expected .*, got"):
        parse_target(text)


@given(st.text(max_size=40))
def test_any_target(text):
    """Any text is a target or a ValueError, and a target that is an address is a destination."""
    try:
        found = parse_target(text)
    except ValueError:
        return

    if isinstance(found, Endpoint):
        assert parse_destination(text) == found
    else:
        assert parse_target(describe_destination(found)) == found
