# SPDX-License-Identifier: Apache-2.0
"""What is known of reading inside TLS, as values: asked for, in force, and of whom.

Counterpart: :mod:`agentwall.daemon.inside` fills them; :mod:`agentwall.daemon.describe_tls` puts
them into documents. No input or output here.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread

TlsState = Literal["starting", "on", "off", "refused"]
"""``starting``: compiling or loading, or about to. ``refused``: wanted, and this host does not let
it."""


class TlsUse(enum.Enum):
    """Whether text is to be read inside TLS. The values are those of files and options."""

    AUTO = "auto"
    """Where bcc and uprobes are there; where they are not, everything else works and it is said."""
    OFF = "off"
    REQUIRE = "require"
    """Nothing starts without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedLibrary:
    """One file whose calls are read."""

    path: str
    """As the process that had it mapped first spells it. Chosen by a sandbox: escape before
    printing."""
    library: TlsLibrary
    device: int
    """``st_dev`` of the real file, below an overlay."""
    inode: int
    processes: int
    """That have it mapped, of all sandboxes."""
    sandboxes: int
    since_ns: int
    """CLOCK_REALTIME when its probes were attached."""
    calls: tuple[str, ...]
    """Names of the functions that are probed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideState:
    """How reading inside TLS stands on this host. Counters run since the wall was loaded."""

    state: TlsState
    reason: str | None = None
    """Why it is off or refused, or on and nothing new is read for the moment; else None."""
    bcc: str | None = None
    """Version of bcc that compiled the probes, now or at an earlier start."""
    compile_s: float | None = None
    """How long that took; None: they were kept from an earlier start."""
    libraries: tuple[ProbedLibrary, ...] = ()
    max_libraries: int
    over_limit: int = 0
    """Libraries that were met and not probed because as many are as may be."""
    displaced: int = 0
    """Libraries that gave way to those of sandboxes that had fewer probed."""
    unreadable: int = 0
    """Libraries that could not be opened or understood."""
    calls: int = 0
    """Calls of libraries that were seen."""
    octets: int = 0
    """Of text that were read."""
    lost: int = 0
    """Calls whose text could not be read, in whole or in part."""
    doubled: int = 0
    """Calls that came out of another call that is read, and were therefore passed over."""
    connections: int = 0
    """Of a library, that were begun."""
    joined: int = 0
    """Of these, whose flow is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptUp:
    """What a round of upkeep has found."""

    libraries: tuple[ProbedLibrary, ...]
    changed: set[Hashable]
    """Whose files were displaced, or probed after they had waited."""
    there: set[int]
    """All processes of the host."""
    missed: set[int]
    """Those of sandboxes, where one may have mapped something and nobody was told; else none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """One process of a sandbox, and whether it is read."""

    pid: int
    """As the daemon sees it."""
    comm: str
    """Chosen by the sandbox, as is *exe*: escape before printing."""
    exe: str | None
    """None where it could not be read."""
    reading: TlsReading
    sessions: int
    """Of TLS that it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReadings:
    """Whose text is read in one sandbox."""

    sessions: int
    """TLS sessions that it began, seen by their ClientHello."""
    joined: int
    """Of these, whose text was read."""
    unread: Mapping[Unread, int] = field(default_factory=dict)
    """The others by the reason of their process, which may have ended; not those of a process that
    is read but for this session."""
    processes: tuple[ProcessReading, ...]
    truncated: int = 0
    """Processes beyond those listed."""


class InsideProvider(Protocol):
    """Who can say how reading inside TLS stands."""

    def state(self) -> InsideState:
        """Return how it stands on this host; does not block."""

    def readings(self, key: SandboxKey) -> SandboxReadings | None:
        """Return what is known of the sandbox *key*; None: nothing. Does not block."""
