# SPDX-License-Identifier: Apache-2.0
"""All that the sending side of a TCP flow says of itself, one saying after the other.

The counterpart is ``aw_inspect()`` in ``bpf/hello.bpf.h``, whose every saying is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agentwall.detect.http import Body, OtherError, read_chunk, read_end, read_request
from agentwall.detect.said import BROKEN, OTHER, BrokenError, EndError, Kind, Outcome, Said
from agentwall.detect.tls import read_client_hello

_TLS = 22


def sayings(stream: bytes) -> list[Said]:
    """Return what *stream*, all that was sent so far, has said.

    TLS says one thing, and so does another protocol; HTTP says one a request. BROKEN is the last.
    """
    found = []
    try:
        for said in _read(stream):
            found.append(said)
    except EndError:
        pass
    except BrokenError:
        found.append(BROKEN)
    except OtherError:
        found.append(OTHER)
    return found


# Yields up to the end of what can be read: raises EndError there at the latest.
def _read(stream: bytes) -> Iterator[Said]:
    at = 0
    tunnel: Said | None = None
    while at < len(stream):
        if stream[at] == _TLS or stream[at] & 0x80:
            hello = read_client_hello(stream[at:])
            if hello.outcome is not Outcome.NOTHING_YET:
                yield _inside(tunnel, hello)
            return
        request = read_request(stream[at:])
        said = request.said
        if said.kind is Kind.ORIGIN:
            said = _inside(tunnel, said)
        else:
            tunnel = None
        yield said
        at += request.size
        if said.kind is Kind.CONNECT:
            tunnel = said
        at = _behind(stream, at, request.length, request.body)


# Behind a CONNECT only its target may be named.
def _inside(tunnel: Said | None, said: Said) -> Said:
    if tunnel is None or said.outcome in (Outcome.OTHER, Outcome.BROKEN):
        return said
    if said.name is not None and said.name != tunnel.name:
        raise BrokenError
    return replace(said, tunnelled=True)


def _behind(stream: bytes, at: int, length: int, body: Body) -> int:
    if body is Body.COUNTED:
        return at + length
    while True:
        size, at = read_chunk(stream, at)
        at = read_end(stream, at + size)
        if not size:
            return at
