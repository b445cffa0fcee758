# SPDX-License-Identifier: Apache-2.0
"""The HTTP/1 messages of a stream with their bodies, read leniently: it is evidence, not a verdict.

The counterpart is :mod:`agentwall.detect.http`, which reads as strictly as the kernel. Here a
message that the end of the data cuts off is handed out as far as it came. Bodies are taken out of
their chunks (RFC 9112 section 7.1) and unpacked (gzip, deflate), up to :data:`MAX_BODY`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

MAX_BODY = 1 << 18
"""Bytes of one unpacked body, and of all of a stream together."""
_MAX_HEAD = 16384
_MAX_MESSAGES = 4096
_REQUEST = re.compile(rb"([A-Z]{3,12}) ([^ \r\n]{1,8192}) HTTP/1\.[01]\r?\n")
_RESPONSE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[^\r\n]{0,512}\r?\n")
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,7})[^\r\n]{0,256}\r?\n")
_WITHOUT_BODY = {204, 304}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpMessage:
    """A request or a response."""

    method: str = ""
    """Of a request; of a response empty."""
    target: str = ""
    status: int = 0
    """Of a response; of a request 0."""
    headers: Mapping[str, str]
    """By their names in lower case; of several of a name, the last."""
    body: bytes
    """Unpacked, as far as it came."""
    end: int
    """Where in the stream the message ends."""

    @property
    def upgrades_to_websocket(self) -> bool:
        """Whether frames follow (RFC 6455 section 4), if the other side agrees."""
        return "websocket" in self.headers.get("upgrade", "").lower()


def is_http(data: bytes, at: int = 0) -> bool:
    """Say whether an HTTP/1 request or response begins at *at*."""
    return bool(_REQUEST.match(data, at) or _RESPONSE.match(data, at))


def read_messages(data: bytes) -> list[HttpMessage]:
    """Read messages up to one that cannot be read, or behind which another protocol begins."""
    found: list[HttpMessage] = []
    at, left = 0, MAX_BODY
    while at < len(data) and len(found) < _MAX_MESSAGES:
        message = _read(data, at, left)
        if message is None:
            break
        found.append(message)
        left -= len(message.body)
        at = message.end
        if message.method == "CONNECT" or message.upgrades_to_websocket:
            break
    return found


def _read(data: bytes, at: int, left: int) -> HttpMessage | None:
    begin = at
    while data.startswith(b"\r\n", begin) and begin < at + 4:
        begin += 2
    first = _REQUEST.match(data, begin) or _RESPONSE.match(data, begin)
    if first is None:
        return None
    blank = _END.search(data, first.end() - 2, begin + _MAX_HEAD)
    headers = _headers(data[first.end() : blank.start() if blank else begin + _MAX_HEAD])
    body_at = blank.end() if blank else len(data)
    is_request = len(first.groups()) == 2
    status = 0 if is_request else int(first[1])
    method = first[1].decode("ascii") if is_request else ""
    if status in _WITHOUT_BODY or 0 < status < 200 or method == "CONNECT":
        body, end = b"", body_at
    else:
        body, end = _body(data, body_at, headers, is_request)
    return HttpMessage(
        method=method,
        target=first[2].decode("latin-1") if is_request else "",
        status=status,
        headers=headers,
        body=_unpack(body, headers.get("content-encoding", "").lower(), max(left, 0)),
        end=end,
    )


def _headers(head: bytes) -> dict[str, str]:
    found = {}
    for line in head.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode("latin-1").lower()] = value.strip().decode("latin-1")
    return found


def _body(data: bytes, at: int, headers: Mapping[str, str], request: bool) -> tuple[bytes, int]:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _chunks(data, at)
    length = headers.get("content-length", "").strip()
    if length.isascii() and length.isdigit() and len(length) < 16:
        end = min(at + int(length), len(data))
        return data[at:end], end
    return (b"", at) if request else (data[at:], len(data))


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    parts = []
    while size := _CHUNK.match(data, at):
        length = int(size[1], 16)
        at = size.end()
        parts.append(data[at : at + length])
        at = min(at + length, len(data))
        line_end = re.compile(rb"\r?\n").match(data, at)
        if not length or line_end is None:
            # Trailers are not looked for: what follows them is the next message, or nothing is.
            at = line_end.end() if line_end else at
            break
        at = line_end.end()
    return b"".join(parts), at


def _unpack(body: bytes, encoding: str, most: int) -> bytes:
    if encoding in ("gzip", "x-gzip"):
        return inflate(body, 31, most)
    if encoding == "deflate":
        return inflate(body, 15, most) or inflate(body, -15, most)
    return body[:most]


def inflate(data: bytes, window_bits: int, most: int) -> bytes:
    """Unpack as much of *data* as is whole, *most* bytes at most; nothing if it is broken.

    Args:
        data: The packed bytes, maybe cut off.
        window_bits: As zlib takes it: 31 for gzip, 15 for zlib, -15 for bare deflate.
        most: Bytes to return at most; 0 for nothing.
    """
    if most <= 0:
        return b""
    try:
        return zlib.decompressobj(window_bits).decompress(data, most)
    except zlib.error:
        return b""
