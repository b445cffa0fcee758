# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1 request: whom it is for, and what is refused because servers read it differently."""

from __future__ import annotations

import pytest

from agentwall.detect.http import (
    MAX_HEAD,
    Body,
    OtherError,
    read_chunk,
    read_end,
    read_request,
)
from agentwall.detect.said import BrokenError, EndError, Kind, Outcome


def request(line: str, *headers: str) -> bytes:
    """Return a request with these lines."""
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("line", "headers", "kind", "name", "port"),
    [
        ("GET / HTTP/1.1", ["Host: Hub.Example.com"], Kind.ORIGIN, "hub.example.com", None),
        ("GET / HTTP/1.1", ["a: b", "hOsT:\tx.y:80 "], Kind.ORIGIN, "x.y", None),
        ("OPTIONS * HTTP/1.1", ["Host: x.y"], Kind.ORIGIN, "x.y", None),
        ("FOO /a\x80 HTTP/1.0", ["Host: x.y"], Kind.ORIGIN, "x.y", None),
        ("GET / HTTP/1.0", [], Kind.ORIGIN, None, None),
        ("GET / HTTP/1.1", ["Host: 192.0.2.1"], Kind.ORIGIN, None, None),
        ("GET / HTTP/1.1", ["Host:"], Kind.ORIGIN, None, None),
        ("GET http://x.y/ HTTP/1.1", ["Host: X.Y"], Kind.ABSOLUTE, "x.y", 80),
        ("GET HTTPS://x.y?q HTTP/1.1", ["Host: x.y:1"], Kind.ABSOLUTE, "x.y", 443),
        ("GET http://x.y:81 HTTP/1.0", [], Kind.ABSOLUTE, "x.y", 81),
        ("GET http://[::1]/ HTTP/1.1", ["Host: [::1]"], Kind.ABSOLUTE, None, 80),
        ("CONNECT x.y:443 HTTP/1.1", ["Host: x.y"], Kind.CONNECT, "x.y", 443),
        ("CONNECT 192.0.2.1:443 HTTP/1.0", [], Kind.CONNECT, None, 443),
    ],
)
def test_requests(line, headers, kind, name, port):
    """Every prefix asks for more; the whole says the name, and the port of the target."""
    stream = request(line, *headers)
    for size in range(len(stream)):
        with pytest.raises(EndError):
            read_request(stream[:size])
    found = read_request(stream + b"more")

    assert found.size == len(stream)
    assert (found.said.kind, found.said.name, found.said.port) == (kind, name, port)
    assert found.said.outcome is (Outcome.NAME if name else Outcome.NO_NAME)


@pytest.mark.parametrize(
    ("headers", "body", "length"),
    [
        ([], Body.COUNTED, 0),
        (["Content-Length: 17"], Body.COUNTED, 17),
        (["Transfer-Encoding: Chunked"], Body.CHUNKED, 0),
    ],
)
def test_bodies(headers, body, length):
    """How the next request is found."""
    found = read_request(request("POST / HTTP/1.1", "Host: x.y", *headers))

    assert (found.body, found.length) == (body, length)


@pytest.mark.parametrize(
    "stream",
    [
        request("GET / HTTP/1.1"),
        request("GET / HTTP/1.1", "Host: x.y", "Host: x.y"),
        request("GET / HTTP/1.1", "Host: x.y", " folded"),
        request("GET / HTTP/1.1", "Host : x.y"),
        request("GET / HTTP/1.1", "Host: x.y z"),
        request("GET / HTTP/1.1", "Host: x.y, z"),
        request("GET / HTTP/1.1", "no colon"),
        request("GET / HTTP/1.1", ": x"),
        request("GET / HTTP/1.1", "Host: x.y", "a: b\0c"),
        request("GET / HTTP/1.1", "Host: x.y", "a: b\rc"),
        request("GET / HTTP/1.1", "Host: x.y", "Content-Length: 1", "Content-Length: 1"),
        request("GET / HTTP/1.1", "Host: x.y", "Content-Length: 1, 1"),
        request("GET / HTTP/1.1", "Host: x.y", "Content-Length: +1"),
        request("GET / HTTP/1.1", "Host: x.y", "Content-Length:"),
        request("GET / HTTP/1.1", "Host: x.y", "Content-Length: 1234567890123456"),
        request("GET / HTTP/1.1", "Host: x.y", "Transfer-Encoding: gzip, chunked"),
        request("GET / HTTP/1.1", "Host: x.y", "Content-Length: 1", "Transfer-Encoding: chunked"),
        request("GET / HTTP/1.0", "Host: x.y", "Transfer-Encoding: chunked"),
        request("CONNECT x.y:1 HTTP/1.1", "Host: x.y", "Content-Length: 1"),
        request("CONNECT x.y HTTP/1.1", "Host: x.y"),
        request("CONNECT /x HTTP/1.1", "Host: x.y"),
        request("GET http://x.y/ HTTP/1.1", "Host: z.y"),
        request("GET http://x.y/ HTTP/1.1", "Host: 192.0.2.1"),
        request("GET http://u@x.y/ HTTP/1.1", "Host: x.y"),
        request("GET ftp://x.y/ HTTP/1.1", "Host: x.y"),
        request("GET x.y HTTP/1.1", "Host: x.y"),
        request("GET  / HTTP/1.1", "Host: x.y"),
        request("GET /  HTTP/1.1", "Host: x.y"),
        request("GET / HTTP/1.2", "Host: x.y"),
        request("GET / HTTP/1.1 ", "Host: x.y"),
        request("FOO  / HTTP/1.1", "Host: x.y"),
        request("FOO\t/ HTTP/1.1", "Host: x.y"),
        request("PRI * HTTP/2.0"),
        b"GET /old\r\n",
        b"GET / HTTP/1.1\nHost: x.y\n\n",
        b"GET / RTSP/1.0\r\n",
        request("GET / HTTP/1.1", "Host: x.y", "a: " + "b" * MAX_HEAD),
    ],
)
def test_refused(stream):
    """What RFC 9112 forbids, or asks servers to be careful with."""
    with pytest.raises(BrokenError):
        read_request(stream)


@pytest.mark.parametrize(
    "stream",
    [
        *(
            b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
            b"EHLO a.b\r\n",
            b"\0\0\0\x08",
            b"*1\r\n",
            b"\r\n\0",
        ),
        *(b"PLAY rtsp://x.y/ RTSP/1.0\r\n", b"0032git-upload-pack /x\0", b"A\x80"),
    ],
)
def test_other_protocols(stream):
    """Told at the first octet, or the end of the first line, that HTTP cannot have there."""
    with pytest.raises(OtherError):
        read_request(stream)


def test_chunks():
    """A size of up to seven digits, then the data, then an empty line."""
    assert read_chunk(b"x1F\r\n", 1) == (31, 5)
    assert read_end(b"\r\n", 0) == 2
    for stream in (b"12345678\r\n", b"\r\n", b"1;a=b\r\n", b"1\n", b"g", b"`\r\n"):
        with pytest.raises(BrokenError):
            read_chunk(stream, 0)
    with pytest.raises(BrokenError):
        read_end(b"x", 0)
    with pytest.raises(EndError):
        read_chunk(b"1F", 0)
