# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1 request, and where the next one begins. ``bpf/http.bpf.c`` reads the same.

RFC 9112, held to its letter: what servers are known to read in different ways (white space before a
colon, folded lines, two lengths, a bare line feed, ``HTTP/0.9``) is refused.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from agentwall.detect.said import (
    BrokenError,
    EndError,
    Kind,
    Outcome,
    Said,
    read_authority,
)

MAX_HEAD = 8192
"""Octets of a request up to and with its empty line (``AW_HEAD_LEN``)."""
_MAX_HOST = 255
_MAX_CHUNK = 0x0FFF_FFFF
_KNOWN = {
    *(b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"),
    b"PRI",
}
"""Methods, and HTTP/2's preface: no other protocol begins like that, so these are never OTHER."""
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*")
_TARGET = re.compile(rb"[^\x00-\x20\x7f]*")
_JUNK = re.compile(rb"[ \t]HTTP/|[\x00-\x08\x0a-\x1f\x7f]")
_URL = re.compile(rb"(https?)://([^/?#]+)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_VALUE = re.compile(rb"[ \t]*([^ \t]*)[ \t]*")
_DIGITS = re.compile(rb"[0-9]{0,15}")
_PORTS = {b"http": 80, b"https": 443}


class OtherError(Exception):
    """This is another protocol."""


class Body(enum.Enum):
    """How the end of what follows a request is found."""

    COUNTED = "Content-Length"
    CHUNKED = "Transfer-Encoding: chunked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A whole request up to its empty line."""

    said: Said
    size: int
    """Octets of it."""
    body: Body
    length: int
    """Octets of a counted body; 0 if there is none."""


@dataclass(slots=True)
class _Head:
    minor: int
    kind: Kind
    target: tuple[str | None, int] | None
    host: tuple[str | None, int | None] | None = None
    length: int | None = None
    chunked: bool = False


def read_request(stream: bytes) -> Request:
    """Read the request at the beginning of *stream*.

    Raises:
        EndError: More has to be seen.
        OtherError: It is no HTTP.
        BrokenError: It is malformed or longer than :data:`MAX_HEAD`.
    """
    try:
        return _read(stream[:MAX_HEAD])
    except EndError:
        if len(stream) > MAX_HEAD:
            raise BrokenError from None
        raise


def _read(data: bytes) -> Request:
    at = len(data) - len(data.lstrip(b"\r\n"))
    head, at = _read_line(data, at)
    while not data.startswith(b"\r", at):
        at = _read_header(data, at, head)
    _expect(data, at + 1, b"\n")
    body = Body.CHUNKED if head.chunked else Body.COUNTED
    return Request(said=_said(head), size=at + 2, body=body, length=head.length or 0)


def _octet(data: bytes, at: int) -> bytes:
    if at >= len(data):
        raise EndError
    return data[at : at + 1]


def _expect(data: bytes, at: int, octet: bytes) -> None:
    if _octet(data, at) != octet:
        raise BrokenError


def _read_line(data: bytes, at: int) -> tuple[_Head, int]:
    token = _TOKEN.match(data, at)
    assert token
    method, at = token[0], token.end()
    behind = _octet(data, at)
    if not method:
        raise OtherError
    if behind == b"\t":
        raise _no_request(data, at, method)
    if behind != b" ":
        raise BrokenError if method in _KNOWN else OtherError
    found = _TARGET.match(data, at + 1)
    assert found
    target, at = found[0], found.end()
    if _octet(data, at) != b" " or not target:
        raise _no_request(data, at, method)
    minor, at = _read_version(data, at + 1, method)
    kind, named = _read_target(method, target)
    return _Head(minor, kind, named), at


# A line that is no request line: at its end, or where it says " HTTP/" all the same, it is known
# what the flow is.
def _no_request(data: bytes, at: int, method: bytes) -> Exception:
    if method in _KNOWN:
        return BrokenError()
    found = _JUNK.search(data, at)
    if not found:
        return EndError()
    return BrokenError() if found[0].endswith(b"/") else OtherError()


def _read_version(data: bytes, at: int, method: bytes) -> tuple[int, int]:
    for place, expected in enumerate((*b"HTTP/1.", None, *b"\r")):
        octet = _octet(data, at + place)[0]
        if octet == expected or (expected is None and octet in b"01"):
            continue
        if place >= len(b"HTTP/"):
            raise BrokenError
        raise _no_request(data, at + place, method)
    _expect(data, at + 9, b"\n")
    return data[at + 7] - ord("0"), at + 10


def _read_target(method: bytes, target: bytes) -> tuple[Kind, tuple[str | None, int] | None]:
    if method != b"CONNECT" and (target.startswith(b"/") or target == b"*"):
        return Kind.ORIGIN, None
    url = _URL.match(target)
    if method == b"CONNECT":
        kind, authority, default = Kind.CONNECT, target, None
    elif url:
        kind, authority, default = Kind.ABSOLUTE, url[2], _PORTS[url[1].lower()]
    else:
        raise BrokenError
    if len(authority) > _MAX_HOST:
        raise BrokenError
    name, port = read_authority(authority)
    port = port or default
    if port is None:
        raise BrokenError
    return kind, (name, port)


def _read_header(data: bytes, at: int, head: _Head) -> int:
    token = _TOKEN.match(data, at)
    assert token
    at = token.end()
    if _octet(data, at) != b":" or not token[0]:
        raise BrokenError
    kind = token[0].lower()
    _admit(kind, head)
    end = _CONTROL.search(data, at + 1)
    if end and end[0] != b"\r":
        raise BrokenError
    stop = end.start() if end else len(data)
    value = _VALUE.match(data, at + 1, stop)
    assert value
    if kind in (b"host", b"content-length", b"transfer-encoding"):
        if value.end() != stop or (kind == b"host" and len(value[1]) > _MAX_HOST):
            raise BrokenError
        if kind == b"content-length" and not _DIGITS.fullmatch(value[1]):
            raise BrokenError
    _expect(data, stop + 1 if end else stop, b"\n")
    _keep(kind, value[1], head)
    return stop + 2


# Two of a kind, or two ways to say how long the body is, are read in different ways by servers.
def _admit(kind: bytes, head: _Head) -> None:
    if kind == b"host" and head.host is not None:
        raise BrokenError
    if kind not in (b"content-length", b"transfer-encoding"):
        return
    if head.length is not None or head.chunked or head.kind is Kind.CONNECT:
        raise BrokenError
    if kind == b"transfer-encoding" and not head.minor:
        raise BrokenError


def _keep(kind: bytes, value: bytes, head: _Head) -> None:
    if kind == b"host":
        head.host = read_authority(value)
    elif kind == b"content-length":
        if not value:
            raise BrokenError
        head.length = int(value)
    elif kind == b"transfer-encoding":
        if value.lower() != b"chunked":
            raise BrokenError
        head.chunked = True


def _said(head: _Head) -> Said:
    if head.minor and head.host is None:
        raise BrokenError
    port = None
    if head.target is None:
        name = head.host[0] if head.host else None
    else:
        name, port = head.target
        if head.host and head.host[0] != name:
            raise BrokenError
    outcome = Outcome.NAME if name else Outcome.NO_NAME
    return Said(outcome=outcome, kind=head.kind, name=name, port=port)


def read_chunk(stream: bytes, at: int) -> tuple[int, int]:
    """Read the size of a chunk at *at* (RFC 9112 section 7.1, without extensions).

    Returns:
        The size, at most 7 hexadecimal digits, and where the chunk begins.

    Raises:
        EndError, BrokenError: As :func:`read_request`.
    """
    digits = re.compile(rb"[0-9A-Fa-f]{0,8}").match(stream, at)
    assert digits
    if len(digits[0]) > 7:
        raise BrokenError
    behind = digits.end()
    if _octet(stream, behind) != b"\r" or not digits[0]:
        raise BrokenError
    _expect(stream, behind + 1, b"\n")
    return int(digits[0], 16), behind + 2


def read_end(stream: bytes, at: int) -> int:
    """Read the empty line that ends a chunk, or the last one, and return where it ends.

    Raises:
        EndError, BrokenError: As :func:`read_request`.
    """
    _expect(stream, at, b"\r")
    _expect(stream, at + 1, b"\n")
    return at + 2
