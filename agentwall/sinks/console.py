# SPDX-License-Identifier: Apache-2.0
"""What ``run`` says on stderr while the command lives: a line a distinct denial, sums at the end.

The terminal belongs to the command; agentwall writes whole lines that begin with ``agentwall:``
and gives up silently when nobody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import IO

from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Record,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.verdict import Verdict
from agentwall.sinks.describe import (
    NOT_DECODED,
    NOT_LEARNED,
    describe_bytes,
    describe_count,
    describe_hook,
    describe_process,
    describe_reason,
    describe_verdict,
)
from agentwall.sinks.escape import printable
from agentwall.sinks.finding_words import detection_line, finding_kind
from agentwall.sinks.findings import detection_key
from agentwall.sinks.flow_keys import flow_key, is_totals
from agentwall.sinks.remedy import remedy_for
from agentwall.sinks.targets import record_target
from agentwall.sinks.tls_events import is_expected, tls_line

PREFIX = "agentwall: "
MAX_LINES = 200
"""Distinct denials, detections and programs whose TLS is not read that get a line of their own;
the event file has them all."""
MAX_KINDS = 64
"""Kinds of detections that the sums name."""
MAX_DISTINCT = 20_000
"""Of each told apart; memory stays bounded."""


class Console:
    """A sink that prints denials as they happen. ``write``, ``flush`` and ``close`` never raise."""

    def __init__(self, stream: IO[str], *, quiet: bool = False) -> None:
        """Print on *stream*, or nothing at all if *quiet*; counts are kept either way."""
        self._stream = stream
        self._is_open = not quiet
        self._distinct: set[int] = set()
        self._distinct_detections: set[int] = set()
        self._distinct_unread: set[int] = set()
        self._printed = 0
        self.denied = 0
        self.would_denied = 0
        self.permitted = 0
        """Sockets the kernel counted at the end of their flows."""
        self.bytes_out = 0
        self.bytes_in = 0
        self.lost = 0
        self.not_learned = 0
        """Addresses in DNS answers that found no room."""
        self.not_decoded = 0
        """Packets that no decoder saw."""
        self.tls_sessions = 0
        """Of those that could have been read: where probes are off there are none."""
        self.tls_read = 0
        self._detected: dict[str, list[int]] = {}
        """How often each kind was told of, and how often of that it was cut off."""

    def write(self, record: Record) -> None:
        """Count *record*, and print it if it is a denial or detection not seen before."""
        match record:
            case FlowRecord():
                self._write_flow(record)
            case GapRecord() if record.where == NOT_LEARNED:
                self.not_learned += record.lost
            case GapRecord() if record.where == NOT_DECODED:
                self.not_decoded += record.lost
            case GapRecord():
                self.lost += record.lost
            case StateRecord():
                if record.state == "damaged":
                    what = record.detail.get("what", "unknown")
                    self.say(f"the wall is damaged: {what}")
            case DetectionRecord():
                self._write_detection(record)
            case TlsRecord():
                self._write_tls(record)

    def flush(self) -> None:
        """Push out what the stream holds back."""
        self._attempt("")

    def close(self) -> None:
        """Push out what the stream holds back; the stream stays open, it is not ours."""
        self.flush()

    def say(self, words: str) -> None:
        """Print *words* as a line of agentwall's own, escaped."""
        self._attempt(f"{PREFIX}{printable(words)}\n")

    @property
    def distinct(self) -> int:
        """How many different denials there were, up to :data:`MAX_DISTINCT`."""
        return len(self._distinct)

    def summary(self, notes: Iterable[str] = ()) -> None:
        """Print the sums, then *notes*, a line each: coverage, where the events are."""
        for line in self.summary_lines():
            self.say(line)
        for note in notes:
            self.say(note)
        self.flush()

    def summary_lines(self) -> list[str]:
        """Return the sums as lines."""
        parts = []
        if self.denied or not self.would_denied:
            parts.append(f"{self.denied} denied")
        if self.would_denied:
            parts.append(f"{self.would_denied} would be denied")
        if self._distinct:
            more = "+" if self.distinct == MAX_DISTINCT else ""
            parts[-1] += f" ({self.distinct}{more} distinct)"
        parts.append(f"{describe_count(self.permitted, 'flow')} permitted")
        parts.append(f"{describe_bytes(self.bytes_out)} out")
        parts.append(f"{describe_bytes(self.bytes_in)} in")
        lines = [", ".join(parts)]
        if self._detected:
            lines.append(f"detected: {', '.join(self._detected_words())}")
        if self.tls_sessions:
            sessions = describe_count(self.tls_sessions, "session")
            lines.append(f"inside TLS: {self.tls_read} of {sessions} read")
        if self.lost:
            lines.append(f"{describe_count(self.lost, 'event')} lost")
        if self.not_learned:
            count = describe_count(self.not_learned, "address", "addresses")
            lines.append(f"names: {count} not learned")
        if self.not_decoded:
            lines.append(f"decoders: {describe_count(self.not_decoded, 'packet')} not seen")
        return lines

    def _detected_words(self) -> Iterable[str]:
        for kind, (count, cut) in self._detected.items():
            more = f", {cut} cut off" if cut else ""
            yield f"{kind} {count} {'time' if count == 1 else 'times'}{more}"

    def _write_flow(self, record: FlowRecord) -> None:
        if is_totals(record):
            self.permitted += record.count if record.verdict is Verdict.ALLOW else 0
            self.bytes_out += record.bytes_out or 0
            self.bytes_in += record.bytes_in or 0
        elif record.verdict is not Verdict.ALLOW:
            if record.verdict is Verdict.DENY:
                self.denied += record.count
            else:
                self.would_denied += record.count
            self._write_denial(record)

    def _write_detection(self, record: DetectionRecord) -> None:
        finding = record.finding
        kind = finding_kind(finding.cls.value, finding.dialect, finding.evidence)
        if kind in self._detected or len(self._detected) < MAX_KINDS:
            counts = self._detected.setdefault(kind, [0, 0])
            counts[0] += 1
            counts[1] += record.verdict is Verdict.DENY
        key = detection_key(record)
        self._write_once(self._distinct_detections, key, lambda: detection_line(record))

    def _write_tls(self, record: TlsRecord) -> None:
        if is_expected(record):
            return
        self.tls_sessions += record.count
        if record.is_joined:
            self.tls_read += record.count
            return
        process = record.process
        who = (process.comm, process.exe) if process is not None else None
        unread = record.reading.unread if record.reading is not None else None
        self._write_once(self._distinct_unread, hash((who, unread)), lambda: tls_line(record))

    def _write_denial(self, record: FlowRecord) -> None:
        # The hash stands for the key: a sandbox can make the keys long, not the set large.
        key = hash(flow_key(record))
        self._write_once(self._distinct, key, lambda: denial_line(record))

    def _write_once(self, seen: set[int], key: int, line: Callable[[], str]) -> None:
        if key in seen or len(seen) >= MAX_DISTINCT:
            return
        seen.add(key)
        self._printed += 1
        if self._printed <= MAX_LINES:
            self.say(line())
        elif self._printed == MAX_LINES + 1:
            self.say("more denials follow; the event file has them, the summary counts them")

    def _attempt(self, text: str) -> None:
        if not self._is_open:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # A closed terminal must not end the command behind the wall.
            self._is_open = False


def denial_line(record: FlowRecord) -> str:
    """Return one line: what, who, where to, which rule where, and what would permit it."""
    remedy = remedy_for(record)
    return (
        f"{describe_verdict(record.verdict)} {record_target(record)}"
        f" ({describe_hook(record.hook, record.errno)})"
        f" by {describe_process(record.process)}: {describe_reason(record.reason)};"
        f" {'to permit, ' if remedy.startswith('under ') else ''}{remedy}"
    )
