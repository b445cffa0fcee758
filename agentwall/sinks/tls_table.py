# SPDX-License-Identifier: Apache-2.0
"""TLS sessions in an audit report: how many there were, and which were not read. Pure.

Equal sessions of one program are one row. Memory is bounded; what finds no room is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from agentwall.flow.record import TlsRecord
from agentwall.flow.tls import TlsLibrary
from agentwall.sinks.escape import shorten
from agentwall.sinks.report_rows import InsideTls, TlsRow

MAX_ROWS = 2000
MAX_PROCESSES = 50_000
"""Told apart; of more the count stands still."""
_MAX_EACH = 8
"""Pids and names of a row."""
_MAX_TEXT = 255


@dataclass(slots=True)
class _Row:
    first: TlsRecord
    first_ns: int
    last_ns: int
    sessions: int = 0
    pids: dict[int, None] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)

    def add(self, record: TlsRecord) -> None:
        self.first_ns = min(self.first_ns, record.time_ns)
        self.last_ns = max(self.last_ns, record.time_ns)
        self.sessions += record.count
        if record.process is not None and len(self.pids) < _MAX_EACH:
            self.pids[record.process.pid] = None
        name = record.server_name or record.name
        if name and len(self.names) < _MAX_EACH:
            self.names[shorten(name, _MAX_TEXT)] = None

    def row(self) -> TlsRow:
        record = self.first
        return TlsRow(
            sandbox=record.sandbox.id,
            process=record.process,
            pids=tuple(self.pids),
            reading=record.reading,
            server_names=tuple(self.names),
            sessions=self.sessions,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
        )


class TlsTable:
    """Takes TLS records in any order."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, _Row] = {}
        self._processes: set[Hashable] = set()
        self._read: dict[TlsLibrary | None, set[Hashable]] = {}
        self._sessions: Counter[bool] = Counter()
        self._unlisted = 0

    def add(self, record: TlsRecord) -> None:
        """Take an event."""
        self._sessions[record.is_joined] += record.count
        self._add_process(record)
        if record.is_joined:
            return
        process = record.process
        who = None if process is None else (process.comm, process.exe)
        key = hash((record.sandbox.id, who, record.reading))
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MAX_ROWS:
                self._unlisted += record.count
                return
            row = self._rows[key] = _Row(record, record.time_ns, record.time_ns)
        row.add(record)

    def _add_process(self, record: TlsRecord) -> None:
        process = record.process
        if process is None or len(self._processes) >= MAX_PROCESSES:
            return
        # The hash stands for texts that may be long.
        who = hash((record.sandbox.id, process.pid, process.comm, process.exe))
        self._processes.add(who)
        if record.is_joined:
            library = record.reading.library if record.reading is not None else None
            self._read.setdefault(library, set()).add(who)

    def report(self) -> InsideTls:
        """Return what was taken so far."""
        rows = [row.row() for row in self._rows.values()]
        rows.sort(key=lambda row: (-row.sessions, row.first_ns))
        return InsideTls(
            sessions=self._sessions.total(),
            read_sessions=self._sessions[True],
            processes=len(self._processes),
            read_processes=len(set().union(*self._read.values())),
            by_library={library: len(who) for library, who in self._read.items()},
            not_read=tuple(rows),
            unlisted=self._unlisted,
        )
