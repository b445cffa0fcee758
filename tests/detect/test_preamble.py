# SPDX-License-Identifier: Apache-2.0
"""Proxies are taken off both sides; what is no proxy's talk is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.preamble import Hop, strip_preambles

NAMED = b"\x05\x01\x00\x03\x0cpool.example\x0d\x05"
V4 = b"\x05\x00\x00\x01\xc0\x00\x02\x01\x00\x50"
V6 = b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50"
CONNECT = b"CONNECT pool.example:3333 HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = b"HTTP/1.1 407 Nope\r\nContent-Length: 2\r\n\r\nno"
GRANTED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("client", "server", "hop"),
    [
        (b"\x05\x01\x00" + NAMED, b"\x05\x00" + V4, Hop("socks5", "pool.example:3333")),
        (b"\x05\x02\x00\x02" + V6, b"\x05\x00" + V4, Hop("socks5", "[::1]:80")),
        (
            b"\x05\x01\x02\x01\x01u\x01p" + NAMED,
            b"\x05\x02\x01\x00" + V4,
            Hop("socks5", "pool.example:3333"),
        ),
        (b"\x05\x01\x02\x01\x01u\x01p" + NAMED, b"", Hop("socks5", "pool.example:3333")),
        (
            b"\x04\x01\x00\x50\xc0\x00\x02\x01me\x00",
            b"\x00\x5a" + bytes(6),
            Hop("socks4", "192.0.2.1:80"),
        ),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.example\x00",
            b"\x00\x5a" + bytes(6),
            Hop("socks4", "a.example:80"),
        ),
        (CONNECT, GRANTED, Hop("http-connect", "pool.example:3333")),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"", Hop("proxy-protocol", "")),
    ],
)
def test_one_proxy(client, server, hop):
    """What follows the proxy's talk is what is left, on both sides."""
    inner = strip_preambles(client + b"{hello", server + b"{answer" if server else b"")

    assert inner.hops == (hop,)
    assert inner.client == b"{hello"
    assert inner.server == (b"{answer" if server else b"")
    assert (inner.client_at, inner.server_at) == (len(client), len(server))


def test_several():
    """A refusal and another attempt, and a proxy behind a proxy, are all taken off."""
    client = CONNECT + CONNECT + b"\x05\x01\x00" + NAMED + b"{hello"
    inner = strip_preambles(client, REFUSED + GRANTED + b"\x05\x00" + V4 + b"{answer")

    assert [hop.kind for hop in inner.hops] == ["http-connect", "http-connect", "socks5"]
    assert (inner.client, inner.server) == (b"{hello", b"{answer")


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (b"{}", b"{}"),
        (b"\x05\x01\x00" + NAMED, b"HTTP/1.1 400\r\n\r\n"),
        (b"\x05\x00\x00", b""),
        (b"\x04\x03\x00\x50\xc0\x00\x02\x01me\x00", b""),
        (b"\x04\x01\x00\x50\xc0\x00\x02\x01me\x00", b"\x04x"),
        (CONNECT, b"SSH-2.0-x"),
        (b"CONNECTED\n", b""),
    ],
)
def test_no_proxy(client, server):
    """Streams that only begin alike stay whole."""
    inner = strip_preambles(client, server)

    assert (inner.client, inner.server, inner.hops) == (client, server, ())


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from([b"\x05\x01", b"\x04\x01"]))
def test_any_bytes(client, server, begin):
    """Any bytes leave ends of both streams."""
    inner = strip_preambles(begin + client, begin[:1] + server)

    assert (begin + client).endswith(inner.client)
    assert (begin[:1] + server).endswith(inner.server)
