# SPDX-License-Identifier: Apache-2.0
"""Whose text is read inside TLS, process by process: bounded."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Set
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentwall.daemon.inside_state import ProcessReading, SandboxReadings
from agentwall.flow.record import SandboxKey
from agentwall.flow.tls import TlsReading, Unread
from agentwall.probes.finding import Look

MAX_PROCESSES = 256
"""Remembered of one sandbox; of more the one noted longest ago goes."""
_MAX_ALIKE = 1024
_Value = TypeVar("_Value", bound=Hashable)


@dataclass(slots=True)
class _Known:
    comm: str
    exe: str | None
    reading: TlsReading
    sessions: int = 0


@dataclass(slots=True)
class _Sandbox:
    sessions: int = 0
    joined: int = 0
    unread: dict[Unread, int] = field(default_factory=dict)
    forgotten: int = 0
    processes: dict[int, _Known] = field(default_factory=dict)


class Readings:
    """What was seen of the processes that map a TLS library, or speak TLS."""

    def __init__(self) -> None:
        self._sandboxes: dict[SandboxKey, _Sandbox] = {}
        # Most processes are alike, and there may be many of them.
        self._alike: dict[Hashable, Any] = {}
        self.pids: dict[int, SandboxKey] = {}
        """Whose end is of interest: also those that are not remembered otherwise."""

    def note(self, key: SandboxKey, look: Look) -> SandboxKey | None:
        """Take what was seen of a process.

        Returns:
            In which other sandbox a process with this number was known till now; that one has
            ended, or moved.
        """
        before = self.pids.get(look.pid)
        if before == key:
            before = None
        if before is not None and before in self._sandboxes:
            self._sandboxes[before].processes.pop(look.pid, None)
        sandbox = self._sandboxes.setdefault(key, _Sandbox())
        known = sandbox.processes.pop(look.pid, None)
        while len(sandbox.processes) >= MAX_PROCESSES:
            # Its end is still waited for: it may be a library's last user.
            del sandbox.processes[next(iter(sandbox.processes))]
            sandbox.forgotten += 1
        sandbox.processes[look.pid] = _Known(
            comm=self._shared(look.comm),
            exe=self._shared(look.exe),
            reading=self._shared(look.reading),
            sessions=known.sessions if known else 0,
        )
        self.pids[look.pid] = key
        return before

    def _shared(self, value: _Value) -> _Value:
        """Return what is equal to *value*, one object for all."""
        if len(self._alike) >= _MAX_ALIKE:
            self._alike.clear()
        found: _Value = self._alike.setdefault(value, value)
        return found

    def count(self, key: SandboxKey, pid: int | None, joined: bool) -> None:
        """Count a session, of a process where one was noted."""
        sandbox = self._sandboxes.setdefault(key, _Sandbox())
        sandbox.sessions += 1
        sandbox.joined += joined
        known = sandbox.processes.get(pid) if pid is not None else None
        if known is None:
            return
        known.sessions += 1
        why = known.reading.unread
        if not joined and why is not None:
            sandbox.unread[why] = sandbox.unread.get(why, 0) + 1

    def of(self, key: SandboxKey, pid: int) -> TlsReading | None:
        """Return what is known of a process."""
        sandbox = self._sandboxes.get(key)
        known = sandbox.processes.get(pid) if sandbox is not None else None
        return None if known is None else known.reading

    def ended(self, pids: Iterable[int]) -> list[tuple[SandboxKey, list[int]]]:
        """Forget processes that have ended; return them by sandbox."""
        found: dict[SandboxKey, list[int]] = {}
        for pid in pids:
            key = self.pids.pop(pid, None)
            if key is None:
                continue
            found.setdefault(key, []).append(pid)
            sandbox = self._sandboxes.get(key)
            if sandbox is not None:
                sandbox.processes.pop(pid, None)
        return list(found.items())

    def gone(self, there: Set[int]) -> list[tuple[SandboxKey, list[int]]]:
        """Forget processes that are not there any more, whoever missed their end.

        Args:
            there: Processes that there were a moment ago: those need not be looked for.
        """
        absent = self.pids.keys() - there
        return self.ended(pid for pid in absent if not os.path.exists(f"/proc/{pid}"))

    def forget(self, key: SandboxKey) -> None:
        """Forget a sandbox and its processes."""
        self._sandboxes.pop(key, None)
        for pid in [pid for pid, its in self.pids.items() if its == key]:
            del self.pids[pid]

    def describe(self, key: SandboxKey) -> SandboxReadings | None:
        """Return what is known of a sandbox; None: nothing."""
        sandbox = self._sandboxes.get(key)
        if sandbox is None:
            return None
        return SandboxReadings(
            sessions=sandbox.sessions,
            joined=sandbox.joined,
            unread=dict(sandbox.unread),
            processes=tuple(
                ProcessReading(
                    pid=pid,
                    comm=known.comm,
                    exe=known.exe,
                    reading=known.reading,
                    sessions=known.sessions,
                )
                for pid, known in sandbox.processes.items()
            ),
            truncated=sandbox.forgotten,
        )
