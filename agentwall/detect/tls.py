# SPDX-License-Identifier: Apache-2.0
"""The TLS ClientHello at the beginning of a flow. ``bpf/hello.bpf.c`` reads the same.

RFC 8446 sections 4.1.2 and 5.1, RFC 5246 for versions before, RFC 6066 section 3 for the server
name, RFC 9849 for the encrypted hello. What real clients never send is refused rather than
interpreted, since servers may read it in another way.
"""

from __future__ import annotations

from agentwall.detect.said import (
    BROKEN,
    NOTHING_YET,
    OTHER,
    BrokenError,
    EndError,
    Kind,
    Outcome,
    Said,
    read_host,
)

MAX_HELLO = 4096
"""Octets of a ClientHello with the headers of its records (``AW_HELLO_LEN``)."""
MAX_RECORDS = 16
"""Records that one ClientHello may be split over."""
_MAX_RECORD = 16384
_MAX_SESSION_ID = 32
_HANDSHAKE, _MAJOR, _CLIENT_HELLO = 22, 3, 1
_SERVER_NAME = 0
_ECH = {0xFE0D, 0xFFCE}
"""Encrypted hello, and the encrypted server name of its drafts."""
_LEAST_SERVER_NAME = 6
_MAX_SERVER_NAME = 254


class _OtherError(Exception):
    pass


class _Reader:
    """The octets of the handshake message, taken out of their records one need after the other."""

    def __init__(self, stream: bytes) -> None:
        self.at = 0
        self.message: int | None = None
        """Octets left of the message; unknown before its length was read."""
        self._stream = stream
        self._record = 0
        self._records = 0

    def _octet(self) -> int:
        if self.at >= len(self._stream):
            raise EndError
        if self.at >= MAX_HELLO:
            raise BrokenError
        self.at += 1
        return self._stream[self.at - 1]

    def _header(self) -> None:
        if self._octet() != _HANDSHAKE:
            raise BrokenError
        self._records += 1
        if self._records > MAX_RECORDS:
            raise BrokenError
        if self._octet() != _MAJOR:
            raise _OtherError if self._records == 1 else BrokenError
        self._octet()
        self._record = self._octet() << 8
        self._record |= self._octet()
        if not 0 < self._record <= _MAX_RECORD:
            raise BrokenError

    def take(self, count: int) -> bytes:
        """Return the next *count* octets of the message."""
        if self.message is not None:
            if count > self.message:
                raise BrokenError
            self.message -= count
        taken = bytearray()
        while len(taken) < count:
            if not self._record:
                self._header()
            taken.append(self._octet())
            self._record -= 1
        return bytes(taken)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))


def read_client_hello(stream: bytes) -> Said:
    """Say what the first octets of a flow, if they are TLS, ask for.

    Args:
        stream: As much as was seen; what follows the hello is not looked at.

    Returns:
        NAME, NO_NAME or ECH when the hello is whole; OTHER if this is not TLS; NOTHING_YET if
        more has to be seen; BROKEN for a hello that is malformed, longer than :data:`MAX_HELLO`, or
        names more than one server.
    """
    if stream and stream[0] & 0x80:
        return _read_ssl2(stream)
    if stream and stream[0] != _HANDSHAKE:
        return OTHER
    reader = _Reader(stream)
    try:
        return _read(reader)
    except EndError:
        return NOTHING_YET
    except _OtherError:
        return OTHER
    except BrokenError:
        return BROKEN


# The hello of SSL 2, which old OpenSSL servers still take for one of TLS; it has no extensions.
def _read_ssl2(stream: bytes) -> Said:
    if len(stream) < 3:
        return NOTHING_YET
    if stream[2] != _CLIENT_HELLO:
        return OTHER
    return Said(outcome=Outcome.NO_NAME, kind=Kind.TLS)


def _read(reader: _Reader) -> Said:
    if reader.number(1) != _CLIENT_HELLO:
        raise BrokenError
    length = reader.number(3)
    if reader.at + length > MAX_HELLO:
        raise BrokenError
    reader.message = length
    if reader.number(2) >> 8 != _MAJOR:
        raise BrokenError
    reader.take(32)
    session = reader.number(1)
    if session > _MAX_SESSION_ID:
        raise BrokenError
    reader.take(session)
    suites = reader.number(2)
    if not suites or suites % 2:
        raise BrokenError
    reader.take(suites)
    methods = reader.number(1)
    if not methods:
        raise BrokenError
    reader.take(methods)
    if reader.message and reader.number(2) != reader.message:
        raise BrokenError
    return _read_extensions(reader)


def _read_extensions(reader: _Reader) -> Said:
    name: str | None = None
    named = encrypted = False
    while reader.message:
        kind, length = divmod(reader.number(4), 1 << 16)
        if length > reader.message:
            raise BrokenError
        if kind == _SERVER_NAME:
            if named:
                raise BrokenError
            named, name = True, _read_server_name(reader, length)
            continue
        encrypted = encrypted or kind in _ECH
        reader.take(length)
    if encrypted:
        return Said(outcome=Outcome.ECH, kind=Kind.TLS, name=name)
    return Said(outcome=Outcome.NAME if name else Outcome.NO_NAME, kind=Kind.TLS, name=name)


# One name that fills the extension: RFC 6066 forbids two of a type, and knows one type.
def _read_server_name(reader: _Reader, length: int) -> str | None:
    if length < _LEAST_SERVER_NAME:
        raise BrokenError
    if reader.number(2) != length - 2:
        raise BrokenError
    if reader.number(1):
        raise BrokenError
    size = reader.number(2)
    if size != length - 5 or size > _MAX_SERVER_NAME:
        raise BrokenError
    return read_host(reader.take(size))
