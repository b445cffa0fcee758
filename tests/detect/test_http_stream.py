# SPDX-License-Identifier: Apache-2.0
"""Messages of HTTP are read one after the other, with their bodies, as far as they came."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.dialogues import http

from agentwall.detect.http_stream import MAX_BODY, inflate, is_http, read_messages

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\n"


def chunked(*parts: bytes, extension: bytes = b"") -> bytes:
    """A body in chunks."""
    sized = [f"{len(part):x}".encode() + extension + b"\r\n" + part + b"\r\n" for part in parts]
    return b"".join(sized) + b"0\r\n\r\n"


def test_requests_in_a_row():
    """Counted and chunked bodies end where the next request begins."""
    stream = http(b"one", "X-A: b") + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    stream += chunked(b"tw", b"o", extension=b";x=y") + b"GET /last HTTP/1.1\r\n\r\n"
    found = read_messages(stream)

    assert [m.body for m in found] == [b"one", b"two", b""]
    assert [m.method for m in found] == ["POST", "POST", "GET"]
    assert found[0].headers["x-a"] == "b"
    assert found[-1].end == len(stream)


def test_responses():
    """Those that have no body end with their head; without a length the rest is the body."""
    stream = b"HTTP/1.1 100 Continue\r\n\r\n" + http(b"one", first="HTTP/1.1 200 OK")
    stream += b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.0 200\r\n\r\nrest"
    found = read_messages(stream)

    assert [(m.status, m.body) for m in found] == [
        (100, b""),
        (200, b"one"),
        (204, b""),
        (200, b"rest"),
    ]


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"text")),
        ("deflate", zlib.compress(b"text")),
        ("deflate", zlib.compress(b"text")[2:-4]),
        ("identity", b"text"),
    ],
)
def test_encodings(encoding, packed):
    """Packed bodies are unpacked."""
    assert read_messages(http(packed, f"Content-Encoding: {encoding}"))[0].body == b"text"


def test_bombs():
    """What unpacks to more than the limit is cut there, over all messages of a stream."""
    bomb = http(gzip.compress(bytes(1 << 24)), "Content-Encoding: gzip")

    assert [len(m.body) for m in read_messages(bomb * 2)] == [MAX_BODY, 0]
    assert inflate(b"\x1f\x8b\x08broken", 31, 10) == b""


def test_stops_at_another_protocol():
    """Behind CONNECT and an upgrade nothing is read."""
    upgrade = b"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n"

    assert len(read_messages(upgrade + http(b""))) == 1
    assert read_messages(upgrade)[0].upgrades_to_websocket
    assert len(read_messages(b"CONNECT a:1 HTTP/1.1\r\n\r\n" + http(b""))) == 1
    assert read_messages(b"SSH-2.0-x\r\n") == []


@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes(data, end):
    """Any bytes behind any beginning are read, up to no further than their end."""
    stream = (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + data + http(b"x"))[:end] + data

    for message in read_messages(stream):
        assert message.end <= len(stream)
    assert is_http(HEAD + data)
