# SPDX-License-Identifier: Apache-2.0
"""Where records go: the tallies that answer harnesses, the event log, the journal, the figures.

Each record is tallied at once; equal alerts then become one line with a count. None of it can hold
up or fail anything: sinks count what they cannot write.
"""

from __future__ import annotations

import time

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.members import Members
from agentwall.daemon.sinks import Sinks
from agentwall.daemon.tallies import Tallies
from agentwall.engine.repeats import Repeats
from agentwall.flow.record import DetectionRecord, FlowRecord, GapRecord, Record, StateRecord
from agentwall.flow.verdict import Verdict

_STARTED = "started"
"""The ``state`` of a sandbox's first record."""


class Outlets:
    """Takes every record, in order."""

    def __init__(
        self,
        sinks: Sinks,
        members: Members,
        *,
        keeps_flows: bool,
    ) -> None:
        """Write to *sinks*.

        Args:
            sinks: Where records go.
            members: Get their time of the last denial, and how much was found.
            keeps_flows: Whether permitted flows are written too.
        """
        self.tallies = Tallies()
        self.lost: dict[str, int] = {}
        """Events, by the place where they were lost."""
        self._sinks = sinks
        self._members = members
        self._keeps_flows = keeps_flows
        self._repeats = Repeats()

    def write(self, record: Record) -> None:
        """Take *record*."""
        if isinstance(record, StateRecord) and record.state == _STARTED:
            self.tallies.begin(record.sandbox.id)
        self.tallies.add(record)
        self._note(record)
        self._sinks.figures.count(record)
        if self._is_wanted(record):
            for one in self._repeats.see(record):
                self._put(one)

    def _is_wanted(self, record: Record) -> bool:
        is_permitted = isinstance(record, FlowRecord) and record.verdict is Verdict.ALLOW
        return self._keeps_flows or not is_permitted

    def _note(self, record: Record) -> None:
        if isinstance(record, GapRecord):
            self.lost[record.where] = self.lost.get(record.where, 0) + record.lost
            return
        if not isinstance(record, FlowRecord | DetectionRecord):
            return
        member = self._members.named(record.sandbox.id)
        if member is None:
            return
        if isinstance(record, DetectionRecord):
            member.detections += 1
            return
        member.bytes_out += record.bytes_out or 0
        member.bytes_in += record.bytes_in or 0
        if record.verdict is not Verdict.ALLOW:
            member.last_denial_ns = record.time_ns

    def _put(self, record: Record) -> None:
        self._sinks.write(record)

    def end(self, sandbox: str) -> None:
        """Say what is left to say of a sandbox that has ended."""
        for record in self._repeats.end(sandbox):
            self._put(record)
        self.tallies.end(sandbox, time.monotonic())

    def flush(self) -> None:
        """Put out what is due."""
        for record in self._repeats.tick(boot_ns()):
            self._put(record)
        self._sinks.flush()

    def end_all(self) -> None:
        """Say what is left to say of everyone: the daemon ends."""
        for record in self._repeats.flush():
            self._put(record)
        self._sinks.flush()
