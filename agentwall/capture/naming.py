# SPDX-License-Identifier: Apache-2.0
"""The name that a client's first bytes give its server."""

from __future__ import annotations

import re

from agentwall.detect.said import BrokenError, read_authority, read_host

_TLS = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_REQUEST_LINE = re.compile(rb"[A-Z]{3,16} [^ \r\n]{1,2048} HTTP/1\.[01]\r?\n")
_HOST = re.compile(rb"\n[Hh][Oo][Ss][Tt]:[ \t]*([^ \t\r\n]+)[ \t]*\r?\n")
_MAX_HEAD = 8192


def name_of(head: bytes) -> str | None:
    """Return TLS's server name or HTTP's Host.

    For showing and for looking up in lists, thousands a second: :mod:`agentwall.detect.tls` reads
    hellos with the care that permitting takes.

    Args:
        head: The client's stream from its beginning, at least one byte.
    """
    try:
        if head[0] == _TLS:
            name = _server_name(head)
            return read_host(name) if name else None
        line = _REQUEST_LINE.match(head)
        found = _HOST.search(head, line.end() - 1, _MAX_HEAD) if line else None
        return read_authority(found[1])[0] if found else None
    except BrokenError:
        return None


def _server_name(head: bytes) -> bytes | None:
    # RFC 8446 section 4.1.2, RFC 6066 section 3. Bytes that are missing read as 0 or nothing.
    if head[5:6] != bytes([_CLIENT_HELLO]):
        return None
    hello = head[5 : 5 + _word(head, 3)]
    if len(hello) < 4 + int.from_bytes(hello[1:4], "big"):
        hello = _joined(head)
    at = 38  # type, length, version, random
    at += 1 + _byte(hello, at)
    at += 2 + _word(hello, at)
    at += 1 + _byte(hello, at)
    at += 2
    while at + 4 <= len(hello):
        kind, size = _word(hello, at), _word(hello, at + 2)
        if kind == _SERVER_NAME:
            name = at + 9
            return hello[name : name + _word(hello, at + 7)]
        at += 4 + size
    return None


def _joined(head: bytes) -> bytes:
    # A hello in several records.
    parts, at = [], 0
    while head[at : at + 1] == b"\x16" and at < _MAX_HEAD:
        size = _word(head, at + 3)
        parts.append(head[at + 5 : at + 5 + size])
        at += 5 + size
    return b"".join(parts)


def _byte(data: bytes, at: int) -> int:
    return data[at] if at < len(data) else 0


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
