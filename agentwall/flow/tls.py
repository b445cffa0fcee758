# SPDX-License-Identifier: Apache-2.0
"""TLS as a sandbox speaks it: who began a session, and whether its text is read."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The other way round at run time: a record has what is here.
    from agentwall.flow.record import Attempt


class TlsLibrary(enum.Enum):
    """The libraries whose calls can be read. ``enum aw_plain_library`` has the same members."""

    OPENSSL = "openssl"
    GNUTLS = "gnutls"
    NSS = "nss"


class Unread(enum.Enum):
    """Why the text of a process is not read."""

    STATIC = "static"
    """No dynamic linking: whatever TLS it has is in it, without names."""
    GO = "go"
    """Built by Go, which has a TLS of its own."""
    RUST = "rust"
    """Built by Rust, and no known library is mapped: rustls or the like."""
    JAVA = "java"
    OWN_TLS = "own-tls"
    """Dynamically linked, but no known library is mapped."""
    LATE = "late"
    """A known library is mapped, but its probes came after the session had begun."""
    LIMIT = "limit"
    """A known library is mapped, but as many are probed as may be."""
    UNREADABLE = "unreadable"
    """A known library is mapped that cannot be opened or understood."""
    GONE = "gone"
    """The process had ended when it was looked at."""
    OFF = "off"
    """Probes are not in force: see the daemon's status."""
    POLICY = "policy"
    """The rule that permits the flow says that it is not to be read (``inspect``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsReading:
    """Whether and how the text of one process is read."""

    library: TlsLibrary | None
    """Whose calls are read; None: nothing is."""
    path: str | None
    """Of that library, or of the one that cannot be read, in the process's own mount namespace.
    Chosen by the sandbox: escape before printing."""
    unread: Unread | None
    """Why nothing is read, or not all of what the process says; None where all is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloSeen:
    """A flow began with a ClientHello: ``struct aw_hello_event``."""

    attempt: Attempt
    """The flow; its verdict is ALLOW."""
    library: TlsLibrary | None
    """A probe has told which connection of which library this flow is: its text is read."""
    data: bytes
    """What the first segment has of the hello: at most 2048 bytes."""

    @property
    def is_joined(self) -> bool:
        """Whether the flow's text is read."""
        return self.library is not None
