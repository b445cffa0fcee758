# SPDX-License-Identifier: Apache-2.0
"""A flow's sayings in their order: one for TLS, one a request for HTTP."""

from __future__ import annotations

import pytest
from agree.hellos import hello_message, records, server_name

from agentwall.detect.said import Kind, Outcome
from agentwall.detect.sayings import sayings

GET = b"GET / HTTP/1.1\r\nHost: x.y\r\n\r\n"
CONNECT = b"CONNECT x.y:443 HTTP/1.1\r\nHost: x.y:443\r\n\r\n"


def hello(name: bytes) -> bytes:
    """Return a TLS hello to that server."""
    return records(hello_message([server_name(name)]), [])


def outcomes(stream: bytes) -> list[Outcome]:
    """What is said, without whom."""
    return [said.outcome for said in sayings(stream)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Content-Length: 4\r\n\r\nGET ",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n1\r\nx\r\n0\r\n\r\n",
    ],
)
def test_every_request(body):
    """A body is passed over, and the request behind it is read, also after an empty line."""
    first = b"POST / HTTP/1.1\r\nHost: a.b\r\n" + (body or b"\r\n")

    assert [said.name for said in sayings(first + GET + b"\r\n" + GET)] == ["a.b", "x.y", "x.y"]


def test_tls_says_one_thing():
    """What follows the hello is not looked at."""
    assert outcomes(hello(b"x.y") + GET) == [Outcome.NAME]
    assert sayings(hello(b"x.y")[:-1]) == []


def test_tunnel():
    """Behind a CONNECT TLS and HTTP may name its target only."""
    (_, inside) = sayings(CONNECT + hello(b"x.y"))

    assert (inside.kind, inside.name, inside.tunnelled) == (Kind.TLS, "x.y", True)
    assert outcomes(CONNECT + hello(b"z.y")) == [Outcome.NAME, Outcome.BROKEN]
    assert outcomes(CONNECT + GET) == [Outcome.NAME, Outcome.NAME]
    assert outcomes(CONNECT + GET.replace(b"x.y", b"z.y")) == [Outcome.NAME, Outcome.BROKEN]
    assert outcomes(CONNECT + b"SSH-2.0-x\r\n") == [Outcome.NAME, Outcome.OTHER]


def test_proxy_asked_again():
    """A CONNECT that the proxy refused may be followed by another request to it."""
    again = sayings(CONNECT + b"CONNECT a.b:22 HTTP/1.1\r\nHost: a.b:22\r\n\r\n" + hello(b"a.b"))

    assert [(said.name, said.port) for said in again] == [("x.y", 443), ("a.b", 22), ("a.b", None)]
    assert again[-1].tunnelled


def test_upgrade():
    """WebSocket frames behind a request are another protocol; HTTP/2 behind one is refused."""
    upgrade = GET[:-2] + b"Upgrade: websocket\r\n\r\n"

    assert outcomes(upgrade + b"\x82\x85abcd12345") == [Outcome.NAME, Outcome.OTHER]
    assert outcomes(upgrade + b"PRI * HTTP/2.0\r\n\r\n") == [Outcome.NAME, Outcome.BROKEN]
