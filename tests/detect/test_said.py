# SPDX-License-Identifier: Apache-2.0
"""Host names as TLS and HTTP write them come into one form, or are refused."""

from __future__ import annotations

import pytest

from agentwall.detect.said import BrokenError, read_authority, read_host


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"hub.example.com", "hub.example.com"),
        (b"HUB.Example.Com.", "hub.example.com"),
        (b"x_y-z.a1", "x_y-z.a1"),
        (b"a" * 63 + b".b", "a" * 63 + ".b"),
        (b".".join([b"a" * 63] * 3 + [b"b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
        (b"1.2.3.4", None),
        (b"localhost.127", None),
        (b"2001:db8::1", None),
        (b"::ffff:1.2.3.4", None),
    ],
)
def test_hosts(text, name):
    """Case and the last dot do not matter; an IP address is no name."""
    assert read_host(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *(b".", b"..", b"a..b", b".a", b"a b", b"a\0b", b"b\xc3\xbccher.example", b"a/b", b"a@b"),
        *(b"a" * 64 + b".b", b"x:80", b"a%41", b"[::1]"),
        b".".join([b"a" * 63] * 3 + [b"b" * 62]),
    ],
)
def test_what_is_no_host(text):
    """What a resolver or a server could read in another way is refused."""
    with pytest.raises(BrokenError):
        read_host(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", (None, None)),
        (b"a.b", ("a.b", None)),
        (b"A.B.:8080", ("a.b", 8080)),
        (b"1.2.3.4:80", (None, 80)),
        (b"[::1]", (None, None)),
        (b"[2001:db8::1]:65535", (None, 65535)),
    ],
)
def test_authorities(text, expected):
    """A host and a port, which may be left out."""
    assert read_authority(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(b":80", b"a:", b"a:0", b"a:65536", b"a:8x", b"a:80:80", b"a@b", b"u:p@b"),
        *(b"[]", b"[::1", b"[::1]x", b"[::1]80", b"[::1%eth0]", b"::1"),
    ],
)
def test_what_is_no_authority(text):
    """A port out of range, user information, or an IPv6 address without brackets."""
    with pytest.raises(BrokenError):
        read_authority(text)
