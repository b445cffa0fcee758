# SPDX-License-Identifier: Apache-2.0
"""What asks a proxy for a way through, taken off both sides: SOCKS4, 4a and 5, HTTP CONNECT, PROXY.

RFC 1928, RFC 1929, the SOCKS4 and SOCKS4A memos of Ying-Da Lee, RFC 9110 section 9.3.6, version 1
of HAProxy's ``doc/proxy-protocol.txt``. Heads of both streams in; what is said behind the proxy
out, with the way that was asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agentwall.detect.http_stream import read_messages

MAX_PROXIES = 4
"""Proxies behind each other, and refused attempts, that are taken off."""
_CONNECT = re.compile(rb"CONNECT [^ \r\n]{1,512} HTTP/1\.[01]\r?\n")
_PROXY = re.compile(rb"PROXY (?:TCP[46]|UNKNOWN)[^\r\n]{0,95}\r\n")
_SOCKS4_REPLY = 8
_NO_AUTHENTICATION, _USER_AND_PASSWORD = 0, 2
_ADDRESS_SIZES = {1: 4, 4: 16}


@dataclass(frozen=True, slots=True)
class Hop:
    """One proxy that was asked."""

    kind: str
    """``socks4``, ``socks5``, ``http-connect`` or ``proxy-protocol``."""
    target: str
    """Host and port, as they were asked for; empty for ``proxy-protocol``."""


@dataclass(frozen=True, slots=True)
class Inner:
    """Both streams behind the proxies."""

    client: bytes
    server: bytes
    hops: tuple[Hop, ...] = ()
    client_at: int = 0
    """Where in the streams that is."""
    server_at: int = 0


def strip_preambles(client: bytes, server: bytes) -> Inner:
    """Take off what both sides say to and as proxies; nothing where there is no proxy."""
    hops: list[Hop] = []
    client_at = server_at = 0
    for _ in range(MAX_PROXIES):
        step = _strip(client[client_at:], server[server_at:])
        if step is None:
            break
        hop, from_client, from_server = step
        hops.append(hop)
        client_at += from_client
        server_at += from_server
    return Inner(client[client_at:], server[server_at:], tuple(hops), client_at, server_at)


def _strip(client: bytes, server: bytes) -> tuple[Hop, int, int] | None:
    if client[:1] == b"\x05":
        return _socks5(client, server)
    if client[:1] == b"\x04":
        return _socks4(client, server)
    if _CONNECT.match(client):
        return _http(client, server)
    if line := _PROXY.match(client):
        return Hop("proxy-protocol", ""), line.end(), 0
    return None


def _socks4(client: bytes, server: bytes) -> tuple[Hop, int, int] | None:
    if len(client) < 9 or client[1] not in (1, 2):
        return None
    if server and (len(server) < 2 or server[0] != 0 or not 0x5A <= server[1] <= 0x5D):
        return None
    end = client.find(b"\0", 8, 8 + 256)
    if end < 0:
        return None
    host = str(IPv4Address(client[4:8]))
    if client[4:7] == b"\0\0\0" and client[7]:
        begin, end = end + 1, client.find(b"\0", end + 1, end + 1 + 256)
        if end < 0:
            return None
        host = client[begin:end].decode("latin-1")
    hop = Hop("socks4", f"{host}:{int.from_bytes(client[2:4])}")
    return hop, end + 1, min(_SOCKS4_REPLY, len(server))


def _socks5(client: bytes, server: bytes) -> tuple[Hop, int, int] | None:
    if len(client) < 3 or not client[1] or (server and server[0] != 5):
        return None
    at, server_at = 2 + client[1], min(2, len(server))
    method = server[1] if len(server) > 1 else None
    if method is None:
        method = _USER_AND_PASSWORD if client[at : at + 1] == b"\x01" else _NO_AUTHENTICATION
    if method == _USER_AND_PASSWORD:
        after = _behind_password(client, at)
        if after is None:
            return None
        at, server_at = after, min(server_at + 2, len(server))
    request = _socks5_address(client, at)
    if request is None:
        return None
    target, at = request
    reply = _socks5_address(server, server_at)
    return Hop("socks5", target), at, reply[1] if reply else len(server)


# RFC 1929: version, user name, password, each with its length.
def _behind_password(client: bytes, at: int) -> int | None:
    if client[at : at + 1] != b"\x01" or at + 2 > len(client):
        return None
    at += 2 + client[at + 1]
    return at + 1 + client[at] if at < len(client) else None


# Requests and replies have one form (RFC 1928 sections 4 and 6).
def _socks5_address(data: bytes, at: int) -> tuple[str, int] | None:
    if at + 5 > len(data) or data[at] != 5:
        return None
    kind, begin = data[at + 3], at + 4
    if kind == 3:
        size, begin = data[begin], begin + 1
    elif kind in _ADDRESS_SIZES:
        size = _ADDRESS_SIZES[kind]
    else:
        return None
    raw, port = data[begin : begin + size], data[begin + size : begin + size + 2]
    if len(port) < 2:
        return None
    if kind == 3:
        host = raw.decode("latin-1")
    else:
        host = str(IPv4Address(raw)) if kind == 1 else f"[{IPv6Address(raw)}]"
    return f"{host}:{int.from_bytes(port)}", begin + size + 2


# A refusal (407) has a body, and is followed by another attempt or by nothing.
def _http(client: bytes, server: bytes) -> tuple[Hop, int, int] | None:
    request = read_messages(client)[0]
    server_at = 0
    if server:
        answers = read_messages(server)
        if not answers:
            return None
        server_at = answers[0].end
        if 200 <= answers[0].status < 300:
            blank = re.compile(rb"\r?\n\r?\n").search(server)
            server_at = blank.end() if blank else len(server)
    return Hop("http-connect", request.target), request.end, server_at
