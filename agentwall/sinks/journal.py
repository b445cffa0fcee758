# SPDX-License-Identifier: Apache-2.0
"""Records to journald, in its native protocol: one datagram each, with fields to search by.

``journalctl SYSLOG_IDENTIFIER=agentwall AGENTWALL_VERDICT=deny AGENTWALL_EPISODE=41``. Permitted
flows are left out, and TLS sessions that are read. Nothing here waits: what journald does not take
is tried again a few times and then counted as lost, and once it takes something again it is told
how much that was.

The protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentwall.engine.severity import severity_of
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Record,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Verdict
from agentwall.sinks.describe import describe_address
from agentwall.sinks.escape import printable, shorten, without_surrogates
from agentwall.sinks.event_words import event_line

logger = logging.getLogger(__name__)

SOCKET = Path("/run/systemd/journal/socket")
MAX_PENDING = 1024
"""Messages that wait for room in journald's socket; what comes then is lost."""
_RETRY_S = 1.0
"""Between two attempts to find journald."""
_MAX_VALUE = 512
_PRIORITIES = {
    Severity.INFO: 6,
    Severity.LOW: 5,
    Severity.MEDIUM: 4,
    Severity.HIGH: 3,
    Severity.CRITICAL: 2,
}
"""As syslog has them: info, notice, warning, err, crit."""
_WARNING = 4
_TELLING_STATES = frozenset({"mode", "response", "flow-left-hanging", "problem", "reload-failed"})
"""States that somebody should look at, though nothing is broken."""
_LABELS = ("run", "episode", "step", "phase")
"""Labels with a field of their own; the others share one."""


class Journal:
    """Sends records to journald. No method raises or waits."""

    def __init__(self, path: Path = SOCKET) -> None:
        """Send to the socket at *path*, which may come and go."""
        self._path = path
        self._socket: socket.socket | None = None
        self._next_try_s = 0.0
        self._pending: deque[bytes] = deque()
        self._untold = 0
        self.sent = 0
        self.lost = 0
        """Messages that journald did not take."""
        self.problem: str | None = None
        """Why nothing reaches journald; None: it does, as far as is known."""

    def take(self, record: Record, event_id: str | None) -> None:
        """Send *record*, if it is worth it; *event_id* is what ``agentwall explain`` takes."""
        if isinstance(record, FlowRecord) and record.verdict is Verdict.ALLOW:
            return
        if isinstance(record, TlsRecord) and record.is_joined:
            return
        if len(self._pending) >= MAX_PENDING:
            self.flush()
        if len(self._pending) >= MAX_PENDING:
            self._lose()
            return
        self._pending.append(encode_fields(fields_of(record, event_id)))

    def write(self, record: Record) -> None:
        """Send *record* without an id."""
        self.take(record, None)

    def flush(self) -> None:
        """Send what waits, as far as journald takes it now."""
        if not self._pending or not self._connect():
            return
        if self._untold and self._send(_loss_message(self._untold)):
            self._untold = 0
        while self._pending and self._send(self._pending[0]):
            self._pending.popleft()

    def close(self) -> None:
        """Send what waits, for the last time."""
        self.flush()
        for _ in self._pending:
            self._lose()
        self._pending.clear()
        self._disconnect()

    def _connect(self) -> bool:
        if self._socket is not None:
            return True
        now_s = time.monotonic()
        if now_s < self._next_try_s:
            return False
        self._next_try_s = now_s + _RETRY_S
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sender.setblocking(False)
            sender.connect(os.fspath(self._path))
        except OSError as err:
            sender.close()
            self._complain(err)
            return False
        self._socket = sender
        return True

    def _send(self, message: bytes) -> bool:
        """Send *message*; say whether it need not be sent again."""
        if self._socket is None:
            return False
        try:
            self._socket.send(message)
        except BlockingIOError:
            return False
        except OSError as err:
            self._complain(err)
            self._disconnect()
            # Too long is too long for ever; for anything else journald may come back.
            return False
        self.sent += 1
        self.problem = None
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
        self._socket = None

    def _lose(self) -> None:
        self.lost += 1
        self._untold += 1

    def _complain(self, err: OSError) -> None:
        problem = f"journald at {self._path}: {os.strerror(err.errno or 0)}"
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem


def fields_of(record: Record, event_id: str | None) -> Iterator[tuple[str, str]]:
    """Yield the fields of *record*, each with its value; some are left out where empty."""
    yield "MESSAGE", f"{printable(record.sandbox.id)}: {event_line(record)}"
    yield "PRIORITY", str(_priority(record))
    yield "SYSLOG_IDENTIFIER", "agentwall"
    if event_id is not None:
        yield "AGENTWALL_EVENT_ID", event_id
    yield "AGENTWALL_SANDBOX", record.sandbox.id
    yield "AGENTWALL_CGROUP", record.sandbox.cgroup
    yield from _context(record)
    match record:
        case FlowRecord():
            yield "AGENTWALL_KIND", "denial"
            yield from _of_flow(record)
        case DetectionRecord():
            yield "AGENTWALL_KIND", "detection"
            yield "AGENTWALL_CLASS", record.finding.cls.value
            yield "AGENTWALL_SIGNATURE", record.finding.signature
            yield "AGENTWALL_RESPONSE", record.response
            yield from _of_flow(record)
        case TlsRecord():
            yield "AGENTWALL_KIND", "tls"
            yield from _of_tls(record)
        case GapRecord():
            yield "AGENTWALL_KIND", "gap"
            yield "AGENTWALL_WHERE", record.where
            yield "AGENTWALL_LOST", str(record.lost)
        case StateRecord():
            yield "AGENTWALL_KIND", "state"
            yield "AGENTWALL_STATE", record.state


def _context(record: Record) -> Iterator[tuple[str, str]]:
    sandbox = record.sandbox
    for label in _LABELS:
        if label in sandbox.labels:
            yield f"AGENTWALL_{label.upper()}", sandbox.labels[label]
    others = [f"{key}={value}" for key, value in sandbox.labels.items() if key not in _LABELS]
    if others:
        yield "AGENTWALL_LABELS", " ".join(others)
    if sandbox.origin is not None:
        yield "AGENTWALL_RUNTIME", sandbox.origin.runtime.value
        if sandbox.origin.container is not None:
            yield "AGENTWALL_CONTAINER", sandbox.origin.container
    if sandbox.policy is not None:
        yield "AGENTWALL_POLICY", sandbox.policy.name
        if sandbox.policy.commit is not None:
            yield "AGENTWALL_COMMIT", sandbox.policy.commit


def _of_tls(record: TlsRecord) -> Iterator[tuple[str, str]]:
    reading = record.reading
    if record.server_name is not None:
        yield "AGENTWALL_SERVER_NAME", record.server_name
    if record.ja4 is not None:
        yield "AGENTWALL_JA4", record.ja4
    if reading is not None and reading.unread is not None:
        yield "AGENTWALL_UNREAD", reading.unread.value
    yield from _of_both(record)


def _of_flow(record: FlowRecord | DetectionRecord) -> Iterator[tuple[str, str]]:
    yield "AGENTWALL_VERDICT", record.verdict.value
    yield from _of_both(record)


def _of_both(record: FlowRecord | DetectionRecord | TlsRecord) -> Iterator[tuple[str, str]]:
    yield "AGENTWALL_REASON", record.reason.code.value
    yield "AGENTWALL_COUNT", str(record.count)
    if record.reason.rule is not None:
        yield "AGENTWALL_RULE", record.reason.rule
    if record.reason.file is not None:
        yield "AGENTWALL_RULE_FILE", f"{record.reason.file}:{record.reason.line or ''}"
    if record.remote is not None:
        yield "AGENTWALL_REMOTE", describe_address(record.remote.address, record.remote.port)
    if record.name is not None:
        yield "AGENTWALL_REMOTE_NAME", record.name
    if record.process is not None:
        yield "AGENTWALL_PID", str(record.process.pid)
        yield "AGENTWALL_COMM", record.process.comm
        if record.process.exe is not None:
            yield "AGENTWALL_EXE", record.process.exe


def _priority(record: Record) -> int:
    if isinstance(record, StateRecord) and record.state in _TELLING_STATES:
        return _WARNING
    return _PRIORITIES[severity_of(record)]


def encode_fields(fields: Iterator[tuple[str, str]]) -> bytes:
    """Return *fields* as one message; values with line ends are sent by their length."""
    parts = []
    for name, value in fields:
        limit = 4 * _MAX_VALUE if name == "MESSAGE" else _MAX_VALUE
        data = without_surrogates(shorten(value, limit)).encode()
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def _loss_message(lost: int) -> bytes:
    words = f"{lost} messages did not reach the journal; the event log has them"
    return encode_fields(
        iter(
            (
                ("MESSAGE", words),
                ("PRIORITY", str(_WARNING)),
                ("SYSLOG_IDENTIFIER", "agentwall"),
                ("AGENTWALL_KIND", "gap"),
                ("AGENTWALL_WHERE", "journal"),
                ("AGENTWALL_LOST", str(lost)),
            )
        )
    )
