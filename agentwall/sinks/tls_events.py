# SPDX-License-Identifier: Apache-2.0
"""The words for TLS sessions, in lines of ``run`` and of logs. Pure; one line each, escaped."""

from __future__ import annotations

from agentwall.flow.record import TlsRecord
from agentwall.flow.tls import TlsReading, Unread
from agentwall.flow.verdict import Direction
from agentwall.sinks.describe import describe_address, describe_count, describe_process
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.tls_words import name_of, words_of

_MAX_NAME = 80
_MAX_PATH = 120
_EXPECTED = (Unread.OFF, Unread.POLICY)
"""Reasons that somebody chose, for all processes or for a rule: no news of one of them."""
_NOBODY = "nobody has looked at its process"
_OTHER = "its library is read, but this session is none of it: another TLS, or an older session"


def why_unread(reading: TlsReading | None) -> str:
    """Return why a session that no probe has told of is not read."""
    if reading is None:
        return _NOBODY
    return _OTHER if reading.unread is None else words_of(reading.unread)


def library_words(reading: TlsReading | None) -> str:
    """Return ``OpenSSL at /usr/lib/libssl.so.3``, as far as that is known; or nothing."""
    if reading is None:
        return ""
    path = shorten(printable(reading.path), _MAX_PATH) if reading.path else ""
    name = name_of(reading.library) if reading.library is not None else ""
    return f"{name} at {path}" if name and path else name or path


def tls_target(record: TlsRecord) -> str:
    """Return with whom: ``hub.example at 203.0.113.7:443``."""
    name = record.server_name or record.name
    words = shorten(printable(name), _MAX_NAME) if name else ""
    if record.direction is Direction.IN:
        port = record.local.port if record.local is not None else 0
        peer = record.remote.address if record.remote is not None else "an unknown client"
        return f"from {peer} to port {port}" + (f" ({words})" if words else "")
    if record.remote is None:
        return f"to {words}" if words else "to an unknown server"
    where = describe_address(record.remote.address, record.remote.port)
    return f"to {words} at {where}" if words else f"to {where}"


def tls_line(record: TlsRecord) -> str:
    """Return one line: with whom, who, and whether it is read.

    ``TLS to hub.example at 203.0.113.7:443 by curl[12]: read (OpenSSL at /usr/lib/libssl.so.3)``.
    """
    who = describe_process(record.process) if record.process is not None else "several processes"
    return f"TLS {tls_target(record)} by {who}: {reading_words(record)}{_times(record.count)}"


def reading_words(record: TlsRecord) -> str:
    """Return whether it is read, and by what or why not."""
    library = library_words(record.reading)
    if record.is_joined:
        return f"read ({library})" if library else "read"
    why = why_unread(record.reading)
    return f"not read: {why} ({library})" if library else f"not read: {why}"


def is_expected(record: TlsRecord) -> bool:
    """Say whether a session is not read because nothing is, or because somebody chose that."""
    reading = record.reading
    return not record.is_joined and (reading is None or reading.unread in _EXPECTED)


def _times(count: int) -> str:
    return f" ({describe_count(count, 'session')})" if count != 1 else ""
