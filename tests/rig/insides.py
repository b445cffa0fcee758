# SPDX-License-Identifier: Apache-2.0
"""What is known of reading inside TLS, as values: for whatever tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.daemon.inside_state import (
    InsideState,
    ProbedLibrary,
    ProcessReading,
    SandboxReadings,
)
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread

LIBRARY = ProbedLibrary(
    path="/usr/lib/libssl.so.3",
    library=TlsLibrary.OPENSSL,
    device=2049,
    inode=77,
    processes=2,
    sandboxes=1,
    since_ns=5 * 10**9,
    calls=("SSL_write", "SSL_read"),
)
STATE = InsideState(
    state="on",
    bcc="0.26.0",
    compile_s=0.25149,
    libraries=(LIBRARY,),
    max_libraries=64,
    over_limit=1,
    displaced=2,
    unreadable=2,
    calls=40,
    octets=4096,
    lost=3,
    doubled=5,
    connections=9,
    joined=8,
)


def process(
    pid: int,
    unread: Unread | None = None,
    *,
    sessions: int = 0,
    comm: str = "python3",
    exe: str | None = "/usr/bin/python3",
    path: str | None = "/usr/lib/libssl.so.3",
) -> ProcessReading:
    """Return a process that is read by OpenSSL, or is not for *unread*."""
    library = TlsLibrary.OPENSSL if unread is None else None
    reading = TlsReading(library=library, path=path, unread=unread)
    return ProcessReading(pid=pid, comm=comm, exe=exe, reading=reading, sessions=sessions)


def readings(*processes: ProcessReading, joined: int = 0, truncated: int = 0) -> SandboxReadings:
    """Return the readings of a sandbox with these processes, and the sessions they began."""
    return SandboxReadings(
        sessions=sum(each.sessions for each in processes),
        joined=joined,
        processes=processes,
        truncated=truncated,
    )


@dataclass(slots=True)
class Insides:
    """Says what it was given."""

    known: Mapping[SandboxKey, SandboxReadings] = field(default_factory=dict)
    stands: InsideState = STATE

    def state(self) -> InsideState:
        """Return how it stands."""
        return self.stands

    def readings(self, key: SandboxKey) -> SandboxReadings | None:
        """Return what is known of a sandbox."""
        return self.known.get(key)
