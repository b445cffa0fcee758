# SPDX-License-Identifier: Apache-2.0
"""What a TLS ClientHello offers, and its JA4 fingerprint.

The counterpart that decides is :mod:`agentwall.detect.tls`; this reads for reports, so it takes
what it can. JA4: FoxIO's public specification, ``technical_details/JA4.md`` of its repository (JA4
itself, not the JA4+ suite). GREASE: RFC 8701.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS = 0x00, 0x0D, 0x10, 0x2B
_MOST = 1 << 16
_VERSIONS = {
    **{0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"},
    **{0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3"},
}
_NOTHING = "000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A whole ClientHello, numbers in the order in which they were sent."""

    version: int
    """``legacy_version``."""
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    names: tuple[bytes, ...]
    """Of the server; as they were sent."""
    protocols: tuple[bytes, ...]
    """ALPN."""
    signatures: tuple[int, ...]
    versions: tuple[int, ...]


class _ShortError(Exception):
    """What was read ends before it is whole."""


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise _ShortError
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> _Bytes:
        return _Bytes(self.take(self.number(size)))

    def shorts(self) -> tuple[int, ...]:
        return tuple(self.number(2) for _ in range((len(self.data) - self.at) // 2))

    def texts(self, size: int) -> tuple[bytes, ...]:
        found = []
        while self.at < len(self.data):
            found.append(self.vector(size).data)
        return tuple(found)

    @property
    def is_done(self) -> bool:
        return self.at >= len(self.data)


def read_hello(stream: bytes) -> Hello | None:
    """Read the ClientHello that *stream* begins with; None if it is none, or not whole."""
    try:
        message = _Bytes(_handshake(stream))
        if message.number(1) != _CLIENT_HELLO:
            return None
        return _read(message.vector(3))
    except _ShortError:
        return None


def read_beginning(stream: bytes) -> Hello | None:
    """Read a ClientHello that may be cut off: extensions that did not come whole are left out.

    Returns:
        None if it is no ClientHello, or was cut off before its extensions. Not fit for
        :func:`ja4`, which is about all of them.
    """
    try:
        message = _Bytes(_handshake(stream))
        if message.number(1) != _CLIENT_HELLO:
            return None
        message.take(3)
        return _read(message, is_whole=False)
    except _ShortError:
        return None


def _handshake(stream: bytes) -> bytes:
    parts, at = [], 0
    while at + 5 <= len(stream) and stream[at] == _HANDSHAKE and at < _MOST:
        size = int.from_bytes(stream[at + 3 : at + 5])
        parts.append(stream[at + 5 : at + 5 + size])
        at += 5 + size
    return b"".join(parts)


def _read(hello: _Bytes, *, is_whole: bool = True) -> Hello:
    version = hello.number(2)
    hello.take(32)
    hello.vector(1)
    ciphers = hello.vector(2).shorts()
    hello.vector(1)
    fields: dict[int, _Bytes] = {}
    order = []
    if is_whole:
        rest = hello.vector(2) if not hello.is_done else _Bytes(b"")
    else:
        hello.take(2)
        rest = hello
    while not rest.is_done:
        try:
            kind, field = rest.number(2), rest.vector(2)
        except _ShortError:
            if is_whole:
                raise
            break
        order.append(kind)
        fields[kind] = field
    return Hello(
        version=version,
        ciphers=ciphers,
        extensions=tuple(order),
        names=_names(fields[_SERVER_NAME]) if _SERVER_NAME in fields else (),
        protocols=fields[_ALPN].vector(2).texts(1) if _ALPN in fields else (),
        signatures=_listed(fields, _SIGNATURE_ALGORITHMS, 2),
        versions=_listed(fields, _SUPPORTED_VERSIONS, 1),
    )


def _listed(fields: dict[int, _Bytes], kind: int, size: int) -> tuple[int, ...]:
    return fields[kind].vector(size).shorts() if kind in fields else ()


def _names(field: _Bytes) -> tuple[bytes, ...]:
    names, found = field.vector(2), []
    while not names.is_done:
        names.number(1)
        found.append(names.vector(2).data)
    return tuple(found)


def ja4(hello: Hello, *, quic: bool = False) -> str:
    """Return the JA4 fingerprint of *hello*: ``t13d1516h2_8daaf6152771_e5627efa2ab1``."""
    ciphers, extensions = _real(hello.ciphers), _real(hello.extensions)
    version = max(_real(hello.versions), default=hello.version)
    head = (
        f"{'q' if quic else 't'}{_VERSIONS.get(version, '00')}"
        f"{'d' if _SERVER_NAME in extensions else 'i'}"
        f"{min(len(ciphers), 99):02}{min(len(extensions), 99):02}{_protocol(hello)}"
    )
    kept = sorted(kind for kind in extensions if kind not in (_SERVER_NAME, _ALPN))
    tail = _hex(kept)
    if hello.signatures:
        tail += "_" + _hex(_real(hello.signatures))
    return f"{head}_{_digest(_hex(sorted(ciphers)))}_{_digest(tail) if extensions else _NOTHING}"


# First and last letter of the first protocol; of what is neither letter nor digit, the first and
# the last digit of it in hexadecimal.
def _protocol(hello: Hello) -> str:
    first = hello.protocols[0] if hello.protocols else b""
    if not first:
        return "00"
    ends = first[:1] + first[-1:]
    if ends.isalnum():
        return ends.decode("ascii")
    return first.hex()[0] + first.hex()[-1]


def _real(numbers: Iterable[int]) -> list[int]:
    return [n for n in numbers if not (n & 0x0F0F == 0x0A0A and n >> 8 == n & 0xFF)]


def _hex(numbers: Iterable[int]) -> str:
    return ",".join(f"{number:04x}" for number in numbers)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12] if text else _NOTHING
