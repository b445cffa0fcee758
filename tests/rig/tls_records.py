# SPDX-License-Identifier: Apache-2.0
"""TLS sessions as the kernel tells of them, and the records that the engine makes of them."""

from __future__ import annotations

import ssl
import struct
from dataclasses import replace

from agree.hellos import hello_message, python_hello, records, server_name

from agentwall.engine.events import HelloRead
from agentwall.flow.record import TlsRecord
from agentwall.flow.tls import HelloSeen, TlsLibrary, TlsReading, Unread
from agentwall.flow.verdict import Direction
from rig.records import ALLOWED, CURL, SANDBOX, SECOND, START_NS, TCP, endpoint
from rig.sights import ATTEMPT

LIBSSL = "/usr/lib/x86_64-linux-gnu/libssl.so.3"
READ = TlsReading(library=TlsLibrary.OPENSSL, path=LIBSSL, unread=None)
STATIC = TlsReading(library=None, path=None, unread=Unread.STATIC)
OFF = TlsReading(library=None, path=None, unread=Unread.OFF)
PYTHON_HELLO = python_hello("pool.example", ssl.TLSVersion.TLSv1_3)


def named_hello(name: bytes, *protocols: bytes) -> bytes:
    """Return a small ClientHello for a server of this name, with ALPN if there are protocols."""
    extensions = [server_name(name)]
    if protocols:
        listed = b"".join(bytes([len(each)]) + each for each in protocols)
        extensions.append((16, struct.pack(">H", len(listed)) + listed))
    return records(hello_message(extensions), [])


def hello_read(
    data: bytes = PYTHON_HELLO,
    reading: TlsReading | None = READ,
    *,
    library: TlsLibrary | None = TlsLibrary.OPENSSL,
    pid: int = 4242,
    **changes: object,
) -> HelloRead:
    """Return a session of curl that begins, its attempt with *changes*.

    *library* is the one that a probe has told it is a session of.
    """
    task = replace(ATTEMPT.task, pid=pid)
    attempt = replace(ATTEMPT, task=task, **changes)  # type: ignore[arg-type]
    hello = HelloSeen(attempt=attempt, library=library, data=data)
    return HelloRead(hello=hello, process=replace(CURL, pid=pid), reading=reading)


def tls(reading: TlsReading | None = READ, /, **changes: object) -> TlsRecord:
    """Return the record of a session of curl; it is read where *reading* says so."""
    record = TlsRecord(
        sandbox=SANDBOX,
        time_ns=START_NS,
        mono_ns=5 * SECOND,
        process=CURL,
        direction=Direction.OUT,
        protocol=TCP,
        local=endpoint("10.20.0.50", 40000),
        remote=endpoint("198.51.100.10", 443),
        name=None,
        server_name="hub.example",
        alpn=("h2", "http/1.1"),
        ja4="t13d1516h2_8daaf6152771_e5627efa2ab1",
        reading=reading,
        is_joined=reading is not None and reading.unread is None,
        reason=ALLOWED,
    )
    return replace(record, **changes)  # type: ignore[arg-type]
