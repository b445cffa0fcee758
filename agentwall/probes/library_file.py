# SPDX-License-Identifier: Apache-2.0
"""One file that is, or might be, a TLS library: who maps it, and what has become of its probes."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes import uprobes
from agentwall.probes.mappings import FileId
from agentwall.probes.shares import Held, owner_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What has become of one file."""

    library: TlsLibrary
    unread: Unread | None
    """LIMIT or UNREADABLE; None: it is probed."""
    reason: str
    """Of UNREADABLE: which call, and what the kernel said. Holds nothing a sandbox chose."""
    since_s: float
    """When this came about, on the caller's clock: connections begun before are not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One file that is probed, and for whom."""

    file: FileId
    path: str
    """As the user who mapped it first sees it: escape before printing."""
    library: TlsLibrary
    users: frozenset[Hashable]
    since_s: float
    calls: tuple[str, ...]
    """Names of the functions that are probed."""


@dataclass(slots=True, kw_only=True)
class LibraryFile(Held):
    """One file: who maps it, and how it stands with its probes."""

    file: FileId
    path: str
    library: TlsLibrary
    offsets: Mapping[str, int]
    stamp: tuple[int, int]
    since_s: float
    users: set[Hashable] = field(default_factory=set)
    idle_s: float | None = None
    """Since when it has no users."""
    probes: list[uprobes.Probe] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    unread: Unread | None = None
    reason: str = ""
    fd: int = -1
    """Of a file that is probed, or waits for room: see :meth:`hold`."""
    is_mapped: bool = False
    """Some user does or did map it; else it was only found where somebody may."""
    is_rewritten: bool = False
    """It waits until nothing of before is left."""

    @property
    def is_waiting(self) -> bool:
        """Whether it could be probed if there were room."""
        return self.unread is Unread.LIMIT and self.fd >= 0

    def add(self, user: Hashable, now_s: float, *, is_ahead: bool = False) -> None:
        """Note that *user* maps it, or is likely to (*is_ahead*)."""
        self.is_mapped = self.is_mapped or not is_ahead
        if user not in self.users:
            self.users.add(user)
            self.owners[owner_of(user)] += 1
        self.used_s, self.idle_s = now_s, None

    def discard(self, user: Hashable) -> None:
        """Note that *user* does so no longer, if it did."""
        if user in self.users:
            self.users.discard(user)
            owner = owner_of(user)
            self.owners[owner] -= 1
            if not self.owners[owner]:
                del self.owners[owner]

    def hold(self, fd: int) -> None:
        """Keep a descriptor of the same file as *fd*.

        Raises:
            OSError: There are too many.
        """
        if self.fd < 0:
            self.fd = os.dup(fd)

    def let_go(self) -> None:
        """Close that."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def state(self) -> FileState:
        """Return what has become of it."""
        return FileState(
            library=self.library, unread=self.unread, reason=self.reason, since_s=self.since_s
        )


def stamp_of(fd: int) -> tuple[int, int]:
    """Return what changes when a file is written to: its size, and when that was, in ns."""
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns
