# SPDX-License-Identifier: Apache-2.0
"""A DNS server whose answers a test writes itself, octet by octet where it wants to.

It reads questions only as far as it must, and leniently: what the wall lets through must be said.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from rig.listeners import Session, tcp_server, udp_server
from rig.namespace import Namespace

A, CNAME, TXT, AAAA, HTTPS = 1, 5, 16, 28, 65
IN, CHAOS = 1, 3
NXDOMAIN, FORMERR = 3, 1
TRUNCATED = 0x0200
_RESPONSE, _RECURSION = 0x8000, 0x0180
_HEADER_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question as it arrived."""

    number: int
    """The message's id."""
    name: str
    """As it was spelt, without the last dot; what is no text in it reads as Latin-1."""
    kind: int
    is_stream: bool = False
    """It came over TCP."""


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record; *data* of a CNAME is the name it leads to, of A and AAAA the address."""

    owner: str
    kind: int
    data: str | bytes
    ttl_s: int = 60
    group: int = IN
    """Its class."""


Answerer = Callable[[Asked], bytes]
"""Makes the whole message that answers; none if it is empty."""


def pack_name(name: str) -> bytes:
    """Return *name* in wire form, uncompressed."""
    labels = [label.encode("latin-1") for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def pack_record(record: Record) -> bytes:
    """Return *record* in wire form, uncompressed."""
    data = record.data
    if isinstance(data, str):
        if record.kind == CNAME:
            data = pack_name(data)
        else:
            family = socket.AF_INET6 if ":" in data else socket.AF_INET
            data = socket.inet_pton(family, data)
    head = struct.pack("!HHIH", record.kind, record.group, record.ttl_s, len(data))
    return pack_name(record.owner) + head + data


def answer(
    asked: Asked,
    records: Sequence[Record] = (),
    *,
    authority: Sequence[Record] = (),
    additional: Sequence[Record] = (),
    flags: int = 0,
    as_if: Asked | None = None,
    is_response: bool = True,
) -> bytes:
    """Return an answer to *asked*, or to *as_if* in its place; *flags* holds the rcode, too."""
    said = as_if or asked
    bits = (_RESPONSE if is_response else 0) | _RECURSION | flags
    sections = (records, authority, additional)
    head = struct.pack("!6H", said.number, bits, 1, *map(len, sections))
    question = pack_name(said.name) + struct.pack("!2H", said.kind, IN)
    return head + question + b"".join(pack_record(r) for part in sections for r in part)


def read_question(message: bytes, *, is_stream: bool = False) -> Asked | None:
    """Return the first question of *message*; None if it has none that can be read."""
    labels, at = [], _HEADER_BYTES
    if len(message) < _HEADER_BYTES:
        return None
    while at < len(message) and 0 < message[at] < 64:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1"))
        at += 1 + message[at]
    if at + 5 > len(message):
        return None
    (number,) = struct.unpack_from("!H", message)
    (kind,) = struct.unpack_from("!H", message, at + 1)
    return Asked(number=number, name=".".join(labels), kind=kind, is_stream=is_stream)


def _respond(make: Answerer, message: bytes, is_stream: bool) -> bytes:
    asked = read_question(message, is_stream=is_stream)
    if asked is None:
        return message[:2] + struct.pack("!5H", _RESPONSE | FORMERR, 0, 0, 0, 0)
    return make(asked)


def datagrams(make: Answerer) -> Callable[[], Session]:
    """Return sessions for :func:`rig.listeners.udp_server`."""
    return lambda: lambda data: _respond(make, data, False)


def streams(make: Answerer) -> Callable[[], Session]:
    """Return sessions for :func:`rig.listeners.tcp_server`: messages behind their length."""

    def session() -> Session:
        pending = b""

        def hear(data: bytes) -> bytes:
            nonlocal pending
            pending += data
            said = b""
            while len(pending) >= 2 and len(pending) >= 2 + int.from_bytes(pending[:2], "big"):
                end = 2 + int.from_bytes(pending[:2], "big")
                reply, pending = _respond(make, pending[2:end], True), pending[end:]
                said += struct.pack("!H", len(reply)) + reply if reply else b""
            return said

        return hear

    return session


@dataclass(slots=True, kw_only=True)
class ScriptedServer:
    """A running server and what it was asked."""

    address: str
    asked: list[Asked] = field(default_factory=list)
    """In order of arrival."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        """Return the names it was asked for, in order."""
        with self.lock:
            return [asked.name for asked in self.asked]


@contextmanager
def scripted_server(
    namespace: Namespace, address: str, make: Answerer, port: int = 53
) -> Iterator[ScriptedServer]:
    """Answer at *address*, UDP and TCP, with what *make* says."""
    server = ScriptedServer(address=address)

    def note(asked: Asked) -> bytes:
        with server.lock:
            server.asked.append(asked)
        return make(asked)

    with ExitStack() as stack:
        stack.enter_context(udp_server(namespace, address, port, session=datagrams(note)))
        stack.enter_context(tcp_server(namespace, address, port, session=streams(note)))
        yield server
